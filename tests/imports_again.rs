//! Files from outside that come again: the same weights, after a restart, after a death in the middle, after a fault of ours.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use policy::{PolicyVersion, checkpoint::Checkpoint};
use ppo::rollout_log::{ImportOutcome, LogReader, VersionRow, VersionState};
use serde_json::json;

use crate::harness::{
    TestDaemon, client,
    daemon::Builder,
    model,
    process::{self, Process},
};

/// A folder of models and a data directory, which outlive daemons.
struct World {
    models: tempfile::TempDir,
    data: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World { models: tempfile::tempdir().expect("a folder"), data: tempfile::tempdir().expect("a folder") }
    }

    fn import_dir(&self) -> String {
        format!("daemon.import_dir={}", self.models.path().display())
    }

    fn start(&self, change: impl FnOnce(Builder) -> Builder) -> TestDaemon {
        change(TestDaemon::builder().set(self.import_dir())).start_in(self.data.path())
    }

    fn watch(&self) -> TestDaemon {
        self.start(|builder| builder.set("daemon.import_watch=promote").set("daemon.import_poll_ms=50"))
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.models.path().join(name), bytes).expect("room");
    }

    fn log(&self) -> LogReader {
        LogReader::open(self.data.path()).expect("a log")
    }

    fn states(&self) -> Vec<VersionState> {
        self.log().versions().expect("rows").iter().map(|row| row.state).collect()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, holds: impl Fn(&[VersionRow]) -> bool) {
        let began = Instant::now();
        // A process that starts has no log yet.
        let rows = || LogReader::open(self.data.path()).and_then(|log| log.versions()).unwrap_or_default();
        while !holds(&rows()) {
            assert!(began.elapsed() < Duration::from_secs(30), "waited in vain: {what}: {:?}", self.states());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_live(n: u64) -> impl Fn(&[VersionRow]) -> bool {
    move |rows| rows.iter().any(|row| row.version == PolicyVersion(n) && row.state == VersionState::Live)
}

fn weights(seed: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    model::write(file.path(), seed);
    file
}

fn gguf(seed: u64) -> Vec<u8> {
    fs::read(weights(seed).path()).expect("the model")
}

/// The model under Hugging Face's names. Its rows stay in GGUF's order, which makes it another model, and a good one.
fn safetensors(seed: u64, note: &str) -> Vec<u8> {
    let checkpoint = Checkpoint::read(weights(seed).path()).expect("the model");
    let vocabulary = policy::checkpoint::header_of_file(&model::file()).expect("a header").vocabulary_digest;
    let mut header = json!({"__metadata__": {"honed.tokenizer": vocabulary, "note": note}});
    let mut data = Vec::new();
    for (name, tensor) in &checkpoint.tensors {
        let values: Vec<f32> = tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("numbers");
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let place = json!({"dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, data.len()]});
        header[hugging_face(name)] = place;
    }
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn hugging_face(name: &str) -> String {
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        let names = [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
        let (stem, _) = name.split_once('.').expect("NAME.weight");
        return format!("{}.weight", names.iter().find(|(ours, _)| *ours == stem).expect("a tensor of a Llama").1);
    };
    let parts = [
        ("attn_norm.weight", "input_layernorm"),
        ("attn_q.weight", "self_attn.q_proj"),
        ("attn_k.weight", "self_attn.k_proj"),
        ("attn_v.weight", "self_attn.v_proj"),
        ("attn_output.weight", "self_attn.o_proj"),
        ("ffn_norm.weight", "post_attention_layernorm"),
        ("ffn_gate.weight", "mlp.gate_proj"),
        ("ffn_up.weight", "mlp.up_proj"),
        ("ffn_down.weight", "mlp.down_proj"),
    ];
    let theirs = parts.iter().find(|(ours, _)| *ours == part).expect("a tensor of a Llama").1;
    format!("model.layers.{layer}.{theirs}.weight")
}

/// Goal: a file that is converted is known again like one that is copied, so that what an operator left does not go live at the next
/// start. Method: a rollback and a restart; a file that sorts behind it shows that the folder was looked through.
#[test]
fn a_converted_file_that_was_rolled_back_stays_so_over_a_restart() {
    let world = World::new();
    let daemon = world.watch();
    world.put("y.safetensors", &safetensors(11, ""));
    world.wait_for("y is live", is_live(1));
    daemon.wait_for("its row", |_| world.log().imports().expect("rows").len() == 1);
    daemon.post("/v1/policies/0/activate", &json!({})).ok();
    daemon.stop();
    let daemon = world.watch();
    world.put("z.gguf", &gguf(12));
    world.wait_for("z is live", is_live(2));
    daemon.wait_for("its row", |_| world.log().imports().expect("rows").len() >= 2);
    assert_eq!(world.log().imports().expect("rows").len(), 2, "y was left alone");
    assert_eq!(world.states().len(), 3);
    let live = world.log().version(PolicyVersion(2)).expect("readable").expect("a row");
    assert_eq!(live.digest, policy::checkpoint::Digest::of(&gguf(12)).to_string(), "it is z that is live");
}

/// Goal: a copy of known weights does not go live by itself, and whoever made it is told. Method: a rollback, the same bytes under
/// another name, and a restart, at which a file that sorts behind shows that the folder was looked through.
#[test]
fn a_copy_of_known_weights_is_told_of_once() {
    let world = World::new();
    let daemon = world.watch();
    let rows = || world.log().imports().expect("rows");
    world.put("a.gguf", &gguf(11));
    daemon.wait_for("a is live", |_| rows().len() == 1);
    daemon.post("/v1/policies/0/activate", &json!({})).ok();
    world.put("again.gguf", &gguf(11));
    daemon.wait_for("word of the copy", |_| rows().len() == 2);
    let row = rows().pop().expect("one");
    let reason = "policy@1 has these very weights; activate it with `honed policies activate 1`";
    assert_eq!((row.path.as_str(), row.reason.as_deref()), ("again.gguf", Some(reason)));
    assert_eq!(daemon.get("/v1/policies").ok()["live"], 0);
    daemon.stop();
    let daemon = world.watch();
    world.put("z.gguf", &gguf(12));
    daemon.wait_for("z is live", |_| rows().len() == 3);
    assert_eq!(rows().pop().expect("one").path, "z.gguf", "no second word of the others");
}

#[test]
fn the_same_weights_are_not_converted_into_two_versions() {
    let world = World::new();
    let daemon = world.start(|builder| builder);
    world.put("a.safetensors", &safetensors(11, "one"));
    world.put("b.safetensors", &safetensors(11, "the same weights under another header"));
    let load = |name: &str| daemon.post("/v1/policies", &json!({"path": name}));
    assert_eq!(load("a.safetensors").ok()["version"], 1);
    for known in ["a.safetensors", "b.safetensors", "b.safetensors"] {
        let error = load(known).error(409);
        let way = "policy@1 has these very weights; POST /v1/policies/1/activate makes it live";
        assert_eq!(error["message"], way, "{known}");
    }
    assert_eq!(world.states().len(), 2);
    world.put("c.safetensors", &safetensors(12, ""));
    assert_eq!(load("c.safetensors").ok()["version"], 2, "no number was spent on what was known");
    let digest = |version| world.log().version(PolicyVersion(version)).expect("readable").expect("a row").digest;
    assert_ne!(digest(1), digest(2));
}

/// Goal: a good file is taken however the daemon ended while it was judged. Method: asked to stop, and killed, with the candidate just
/// registered and just kept; then a start like any other.
#[test]
fn a_file_whose_judging_was_interrupted_is_taken_again() {
    let ends = [
        ("import.registered=delay:2000", true, "the daemon stopped before"),
        ("import.registered=kill", false, "the process ended before"),
        ("import.kept=kill", false, ""),
    ];
    for (failpoint, is_asked, why) in ends {
        let world = World::new();
        world.put("good.gguf", &gguf(11));
        let import_dir = world.import_dir();
        let sets = ["ppo.enabled=false", &import_dir, "daemon.import_watch=promote", "daemon.import_poll_ms=20"];
        let mut process = Process::try_serve(world.data.path(), &sets, failpoint).expect("it serves");
        if is_asked {
            let is_candidate = |rows: &[VersionRow]| rows.iter().any(|row| row.state == VersionState::Candidate);
            world.wait_for("a candidate", is_candidate);
            process.signal(libc::SIGTERM);
        }
        process.wait();
        assert!(world.log().imports().expect("rows").is_empty(), "{failpoint}: nothing has come of it");
        let process = Process::serve(world.data.path(), &sets);
        let is_new = |rows: &[VersionRow]| rows.iter().any(|row| row.state == VersionState::Live && row.version.0 > 0);
        world.wait_for(failpoint, is_new);
        let row = world.log().version(PolicyVersion(1)).expect("readable").expect("a row");
        if !why.is_empty() {
            assert_eq!((row.state, row.has_verdict()), (VersionState::Rejected, false), "{failpoint}");
            assert!(row.reason.expect("a reason").contains(why), "{failpoint}");
            let told = why_1(world.data.path());
            assert!(told.contains("was given up without a verdict") && !told.contains("refused"), "{told}");
        }
        drop(process);
        check_that_it_is_left_alone(&world);
    }
}

fn why_1(data: &Path) -> String {
    let output = Command::new(process::binary()).args(["why", "1", "--data-dir"]).arg(data).output();
    String::from_utf8(output.expect("the binary runs").stdout).expect("UTF-8")
}

/// A file that went live once and was rolled back does not come back, whatever its way there was.
fn check_that_it_is_left_alone(world: &World) {
    let daemon = world.start(|builder| builder);
    daemon.post("/v1/policies/0/activate", &json!({})).ok();
    daemon.stop();
    let n_before = world.states().len() as u64;
    let _daemon = world.watch();
    world.put("z.gguf", &gguf(12));
    world.wait_for("z is live", is_live(n_before));
    assert_eq!(world.states().len() as u64, n_before + 1, "the rolled back one was left alone");
}

/// Goal: a fault of ours does not cost a file, and does not fill the log. Method: the disk refuses twice, in the same words.
#[test]
fn what_failed_for_no_fault_of_the_file_is_tried_again() {
    let world = World::new();
    world.start(|builder| builder).stop();
    world.put("good.gguf", &gguf(11));
    let log = world.data.path().join("stderr");
    let import_dir = world.import_dir();
    let faults = "daemon.failpoints=file.write=error@1; file.write=error@2";
    let sets = ["ppo.enabled=false", &import_dir, "daemon.import_watch=promote", "daemon.import_poll_ms=20", faults];
    let process = Process::serve_logged(world.data.path(), &sets, &log, "info");
    client::until_ready(process.address);
    world.wait_for("it is live in the end", |rows| {
        rows.iter().any(|row| row.state == VersionState::Live && row.version.0 > 0)
    });
    let began = Instant::now();
    while world.log().imports().expect("rows").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "no row tells of it");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(process);
    let outcomes: Vec<_> = world.log().imports().expect("rows").iter().map(|row| row.outcome).collect();
    assert_eq!(outcomes, [ImportOutcome::Promoted]);
    let log = fs::read_to_string(log).expect("a log");
    assert_eq!(log.matches("it is tried again").count(), 1, "{log}");
}
