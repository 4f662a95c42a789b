//! Models from outside: the route, the watched folder, and what neither lets in.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    process::Command,
    time::Duration,
};

use candle_core::{Device, Tensor};
use policy::{
    checkpoint::Checkpoint,
    transformer::{Adapter, LoraShape},
};
use ppo::rollout_log::{ImportOutcome, ImportSource, LogReader};
use serde_json::{Value, json};

use crate::harness::{
    Builder, TestDaemon,
    forge::{self, Forge},
    importing::{World, world},
    model,
};

const MATRIX: &str = "blk.0.ffn_up.weight";
const NORM: &str = "output_norm.weight";

impl World {
    fn load(&self, body: &Value) -> crate::harness::client::Reply {
        self.daemon.post("/v1/policies", body)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.models.path().join(name), bytes).expect("room");
    }

    fn fingerprint(&self) -> Value {
        let body = json!({"prompt": "the ocean", "max_tokens": 4, "ignore_eos": true});
        self.daemon.post("/v1/completions", &body).ok()["system_fingerprint"].clone()
    }

    fn imports(&self, outcome: &str) -> f64 {
        self.daemon.metric(&format!("honed_imports_total{{outcome=\"{outcome}\"}}"))
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.data.path().join("versions")).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn good() -> Checkpoint {
    Checkpoint::read(&model::file()).expect("the model")
}

/// Other weights of the same shape.
fn tuned(seed: u64) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    model::write(file.path(), seed);
    fs::read(file.path()).expect("the model")
}

fn safetensors(header: &str, n_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; n_bytes]].concat()
}

type Change = Box<dyn Fn(&mut Forge)>;

fn change(change: impl Fn(&mut Forge) + 'static) -> Change {
    Box::new(change)
}

/// What each file says wrongly, and a word of the refusal.
fn wrong_headers() -> Vec<(&'static str, Change, &'static str)> {
    let wide = |kind: u32, bytes: &[u8]| forge::value(kind, bytes);
    let nested =
        (0..10).fold(Vec::new(), |inner: Vec<u8>, _| [&9_u32.to_le_bytes(), &1_u64.to_le_bytes()[..], &inner].concat());
    vec![
        ("magic", change(|f| f.magic = *b"GGML"), "neither"),
        ("version 1", change(|f| f.version = 1), "expected 2 or 3"),
        ("version 4", change(|f| f.version = 4), "expected 2 or 3"),
        ("big endian", change(|f| f.version = 3_u32.swap_bytes()), "expected 2 or 3"),
        ("tensors overflow", change(|f| f.n_tensors = Some(u64::MAX)), "tensors"),
        ("one tensor too many", change(|f| f.n_tensors = Some(f.tensors.len() as u64 + 1)), ""),
        ("keys overflow", change(|f| f.n_keys = Some(u64::MAX)), "keys"),
        ("a key too few", change(|f| f.n_keys = Some(f.keys.len() as u64 - 1)), ""),
        ("text overflow", change(move |f| f.set("general.name", wide(8, &u64::MAX.to_le_bytes()))), "general.name"),
        ("list overflow", change(|f| f.set("general.tags", forge::list(8, u64::MAX, &[]))), "entries of lists"),
        ("long list", change(|f| f.set("general.tags", forge::list(8, 1 << 21, &[]))), "longer than"),
        ("deep lists", change(move |f| f.set("general.tags", forge::value(9, &nested))), "deep"),
        ("value type", change(|f| f.set("general.name", forge::value(13, &[]))), "type 13"),
        ("boolean", change(|f| f.set("general.flag", forge::value(7, &[2]))), "boolean"),
        ("key twice", change(|f| f.keys.push(f.keys[0].clone())), "there twice"),
        ("tensor twice", change(|f| f.tensor(MATRIX).name = NORM.to_owned()), "there twice"),
        ("alignment 0", change(|f| f.set("general.alignment", forge::value(4, &[0; 4]))), "general.alignment"),
        (
            "alignment 33",
            change(|f| f.set("general.alignment", forge::value(4, &33_u32.to_le_bytes()))),
            "power of two",
        ),
        (
            "alignment in 64 bits",
            change(|f| f.set("general.alignment", forge::value(10, &32_u64.to_le_bytes()))),
            "32 bits",
        ),
        ("five dimensions", change(|f| f.tensor(MATRIX).dims.extend([1, 1, 1])), "5 dimensions"),
        ("no dimensions", change(|f| f.tensor(MATRIX).dims.clear()), "0 dimensions"),
        ("dimension 0", change(|f| f.tensor(MATRIX).dims[1] = 0), "1 or more"),
        ("dimensions overflow", change(|f| f.tensor(MATRIX).dims = vec![1 << 32, 1 << 32]), "more than any file"),
        ("type that was removed", change(|f| f.tensor(MATRIX).kind = 4), "type 4"),
        ("type of the future", change(|f| f.tensor(MATRIX).kind = 255), "type 255"),
        ("half a block", change(|f| (f.tensor(NORM).kind, f.tensor(NORM).dims) = (14, vec![64])), "whole blocks"),
        ("crooked offset", change(|f| f.tensor(MATRIX).offset += 1), "a multiple of 32"),
        ("offset past the end", change(|f| f.tensor(MATRIX).offset = 1 << 40), "not inside"),
        ("offset overflow", change(|f| f.tensor(MATRIX).offset = u64::MAX - 31), "not inside"),
        ("overlap", change(|f| f.tensor(MATRIX).offset += 32), "overlap"),
        ("long name", change(|f| f.tensor(MATRIX).name = "n".repeat(64)), "1 to 63"),
    ]
}

/// Files in good order that are no version of this policy.
fn strangers() -> Vec<(&'static str, Change, &'static str)> {
    let text = |word: &str| forge::value(8, &forge::text(word));
    vec![
        (
            "missing tensor",
            change(|f| {
                let at = f.tensors.iter().position(|t| t.name == MATRIX).expect("a tensor of the model");
                // Its bytes stay, so that the others are where they say.
                f.tensors[at - 1].room += f.tensors.remove(at).room;
            }),
            "missing",
        ),
        ("extra tensor", change(|f| f.tensor(MATRIX).name = "blk.7.ffn_up.weight".to_owned()), "none of that name"),
        ("transposed", change(|f| f.tensor(MATRIX).dims.swap(0, 1)), "expected shape"),
        (
            "norm in f16",
            change(|f| {
                let norm = f.tensor(NORM);
                (norm.kind, norm.bytes) = (1, vec![0; 128]);
            }),
            "expected F32",
        ),
        ("rope", change(|f| f.set("llama.rope.freq_base", forge::value(6, &5e5_f32.to_le_bytes()))), "freq_base"),
        ("heads as text", change(move |f| f.set("llama.attention.head_count", text("4"))), "head_count"),
        ("architecture", change(move |f| f.set("general.architecture", text("qwen2"))), "general.architecture"),
        ("experts", change(|f| f.set("llama.expert_count", forge::value(4, &8_u32.to_le_bytes()))), "expert_count"),
        ("split", change(|f| f.set("split.count", forge::value(2, &2_u16.to_le_bytes()))), "split.count"),
        ("no tokenizer", change(|f| f.keys.retain(|(key, _)| !key.starts_with("tokenizer."))), "tokenizer"),
        (
            "other tokenizer",
            change(|f| {
                let merges = f.key("tokenizer.ggml.merges");
                let last = merges.len() - 1;
                merges[last] ^= 1;
            }),
            "tokenizer",
        ),
        ("half an adapter", change(move |f| f.set("general.type", text("adapter"))), "adapter.type"),
        (
            "not a number",
            change(|f| {
                let matrix = f.tensor(MATRIX);
                let last = matrix.bytes.len() - 4;
                matrix.bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
            "not finite",
        ),
        (
            "infinite",
            change(|f| f.tensor(NORM).bytes[4..8].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes())),
            "not finite",
        ),
        (
            "infinite scale",
            change(|f| {
                let matrix = f.tensor(MATRIX);
                let n_blocks = matrix.dims.iter().product::<u64>() as usize / 32;
                (matrix.kind, matrix.bytes) = (8, vec![0; 34 * n_blocks]);
                matrix.bytes[34 * (n_blocks - 1) + 1] = 0x7c;
            }),
            "not finite",
        ),
    ]
}

/// Names in the folder that are no regular file in it, with status and a word of the refusal.
fn no_files(world: &World) -> Vec<(String, u16, &'static str)> {
    let folder = world.models.path();
    assert!(Command::new("mkfifo").arg(folder.join("fifo.gguf")).status().expect("mkfifo runs").success());
    fs::create_dir(folder.join("folder.gguf")).expect("a folder");
    symlink(model::file(), folder.join("out.gguf")).expect("a link");
    symlink("whole.gguf", folder.join("in.gguf")).expect("a link");
    symlink("/", folder.join("root")).expect("a link");
    // Stays in the folder when the listener is gone.
    drop(UnixListener::bind(folder.join("socket.gguf")).expect("a socket"));
    let absolute = model::file().display().to_string();
    [
        ("fifo.gguf", 400, "FIFO"),
        ("folder.gguf", 400, "folder"),
        ("socket.gguf", 400, "socket"),
        ("out.gguf", 403, "symbolic link"),
        ("in.gguf", 403, "symbolic link"),
        ("root/dev/zero", 403, "symbolic link"),
        ("../whole.gguf", 403, ".."),
        ("/dev/zero", 403, "not inside"),
        (absolute.as_str(), 403, "not inside"),
        ("absent.gguf", 404, "no file"),
        ("http://localhost/whole.gguf", 400, "path of a file"),
        ("file:///etc/passwd", 400, "path of a file"),
        ("large.gguf", 413, "at most"),
    ]
    .map(|(name, status, part)| (name.to_owned(), status, part))
    .into()
}

/// Goal: whatever is named, the answer says what is wrong with it, and nothing else happens. Method: sixty files that are
/// malformed each in its own way, and names that are no file; then the daemon still serves, and holds nothing of them.
#[test]
fn malformed_files_are_refused_with_a_reason_and_the_daemon_serves_on() {
    let world = world(|builder| builder.set("daemon.import_bytes_max=2000000"));
    let forge = Forge::of(&good());
    world.put("whole.gguf", &forge.bytes());
    world.put("large.gguf", &vec![0; 2_000_001]);
    let (n_header, whole) = forge.parts();
    let mut files: Vec<(String, Vec<u8>, &str)> = vec![
        ("empty".into(), Vec::new(), "neither a GGUF nor"),
        ("three bytes".into(), b"GGU".to_vec(), "neither a GGUF nor"),
        ("magic only".into(), b"GGUF".to_vec(), "ends inside"),
        ("zeros".into(), vec![0; 4096], "neither a GGUF nor"),
        ("a web page".into(), b"<!DOCTYPE html><html>404</html>".to_vec(), "neither a GGUF nor"),
        ("safetensors of nothing".into(), safetensors(r#"{}"#, 0), "honed.tokenizer"),
        (
            "safetensors with a gap".into(),
            safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8),
            "gap",
        ),
        ("safetensors overflow".into(), [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "a header of"),
        ("half a header".into(), whole[..n_header / 2].to_vec(), ""),
        ("header only".into(), whole[..n_header].to_vec(), "not inside"),
        ("cut short".into(), whole[..whole.len() - 64].to_vec(), "not inside"),
    ];
    for (name, change, part) in wrong_headers().into_iter().chain(strangers()) {
        let mut changed = forge.clone();
        change(&mut changed);
        files.push((name.to_owned(), changed.bytes(), part));
    }
    assert!(files.len() >= 40, "{}", files.len());
    for (name, bytes, part) in &files {
        world.put("wrong.gguf", bytes);
        let error = world.load(&json!({"path": "wrong.gguf", "promote": true})).error(400);
        let message = error["message"].as_str().expect("a message");
        assert_eq!((&error["param"], &error["code"]), (&json!("path"), &json!("invalid_model")), "{name}: {message}");
        assert!(message.contains(part), "{name}: {message:?} does not say {part:?}");
    }
    let no_files = no_files(&world);
    for (name, status, part) in &no_files {
        let error = world.load(&json!({"path": name})).error(*status);
        assert!(error["message"].as_str().expect("a message").contains(part), "{name}: {error}");
    }
    for body in
        [json!({}), json!({"path": 3}), json!({"path": "a", "promote": 1}), json!({"path": "a", "expected_live": 0})]
    {
        world.load(&body).error(400);
    }
    let n_refused = files.len() + no_files.len();
    assert_eq!(world.imports("refused"), n_refused as f64);
    assert_eq!(world.fingerprint(), "policy@0");
    assert_eq!(world.daemon.get("/v1/policies").ok()["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(world.files(), ["policy-0.gguf"]);
    let rows = LogReader::open(world.data.path()).and_then(|log| log.imports()).expect("rows");
    assert_eq!(rows.len(), n_refused);
    assert!(rows.iter().all(|row| row.reason.is_some() && row.outcome == ImportOutcome::Refused));
    // What a good file gets, so that the above is not what every file gets.
    let row = world.load(&json!({"path": "whole.gguf", "promote": true})).ok();
    assert_eq!((&row["state"], &row["parent"]), (&json!("live"), &json!(0)));
    assert_eq!(world.fingerprint(), row["id"]);
}

/// Goal: a file is kept, or made live, as asked; its weights answer; the same weights are not taken twice. Method: two files.
#[test]
fn a_good_file_becomes_a_version() {
    let world = world(|builder| builder);
    world.put("a.gguf", &tuned(11));
    world.put("b.gguf", &tuned(12));
    let kept = world.load(&json!({"path": "a.gguf"})).ok();
    assert_eq!((&kept["version"], &kept["state"]), (&json!(1), &json!("retained")));
    world.daemon.wait_for("its memory is free", |daemon| daemon.get("/v1/policies/1").ok()["resident"] == json!(false));
    assert_eq!(world.fingerprint(), "policy@0");
    assert_eq!(world.load(&json!({"path": "a.gguf"})).error(409)["code"], "conflict");
    let wrong = world.load(&json!({"path": "b.gguf", "promote": true, "expected_live": 1}));
    assert!(wrong.error(409)["message"].as_str().expect("a message").contains("live version"), "{}", wrong.text());
    assert_eq!(world.daemon.get("/v1/policies/2").ok()["state"], "retained", "it may be tried again");
    let absolute = world.models.path().join("b.gguf").display().to_string();
    world.load(&json!({"path": absolute})).error(409);
    world.daemon.post("/v1/policies/2/activate", &json!({"expected_live": 0})).ok();
    assert_eq!(world.fingerprint(), "policy@2");
    world.daemon.post("/v1/policies/1/activate", &json!({})).ok();
    assert_eq!(world.fingerprint(), "policy@1");
    assert_eq!((world.imports("retained"), world.imports("refused")), (2.0, 2.0));
}

/// Goal: weights that would spoil every answer do not go live. Method: the model with its last norm turned up a thousandfold,
/// and one whose logits overflow although every weight is finite.
#[test]
fn a_file_that_spoils_the_policy_is_rejected_by_the_gate() {
    let world = world(|builder| builder);
    for _ in 0..4 {
        world.fingerprint();
    }
    world.daemon.wait_for("the log commits", |d| d.metric("honed_rollouts_logged_total") >= 4.0);
    for (name, factors, part) in [("loud", [1e3, 1.0], "log-prob lost"), ("overflowing", [3e38, 1e3], "not finite")] {
        let mut spoilt = good();
        for (tensor, factor) in [NORM, "token_embd.weight"].into_iter().zip(factors) {
            let louder = (&spoilt.tensors[tensor] * factor).expect("numbers");
            spoilt.tensors.insert(tensor.to_owned(), louder);
        }
        world.put("spoilt.gguf", &spoilt.to_bytes().expect("a file"));
        let error = world.load(&json!({"path": "spoilt.gguf", "promote": true})).error(409);
        assert!(error["message"].as_str().expect("a message").contains(part), "{name}: {error}");
    }
    let rows = world.daemon.get("/v1/policies").ok();
    let states: Vec<_> = rows["data"].as_array().expect("rows").iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["live", "rejected", "rejected"]);
    assert_eq!((world.fingerprint(), world.files()), (json!("policy@0"), vec!["policy-0.gguf".to_owned()]));
    assert_eq!(world.imports("rejected"), 2.0);
}

#[test]
fn an_adapter_is_served_beside_version_0_and_an_unfitting_one_is_refused() {
    let world = world(|builder| builder);
    let base = good();
    let shape = policy::checkpoint::shape_of_file(&model::file()).expect("a shape");
    let adapter = |rank| {
        let adapter = Adapter::new(&shape, LoraShape { rank, alpha: 4.0 }, 1, &Device::Cpu).expect("an adapter");
        adapter.to_checkpoint(&base.metadata).expect("a checkpoint")
    };
    world.put("adapter.gguf", &adapter(2).to_bytes().expect("a file"));
    assert_eq!(world.load(&json!({"path": "adapter.gguf", "promote": true})).ok()["state"], "live");
    assert_eq!(world.fingerprint(), "policy@1");
    let mut odd = adapter(2);
    let factor = "blk.0.attn_q.weight.lora_a";
    odd.tensors
        .insert(factor.to_owned(), Tensor::zeros((3, 64), candle_core::DType::F32, &Device::Cpu).expect("zeros"));
    world.put("odd.gguf", &odd.to_bytes().expect("a file"));
    let error = world.load(&json!({"path": "odd.gguf"})).error(400);
    assert!(error["message"].as_str().expect("a message").contains("attn_q"), "{error}");
}

/// Goal: the learner goes on from what was loaded. Method: learning is on; a file is promoted through the learner's queue, and
/// an adapter, which this learner could not train, is refused at the door.
#[test]
fn the_learner_follows_a_promoted_file() {
    let sets = ["ppo.enabled=true", "reward.source=feedback", "reward.feedback_fallback=drop"];
    let world = world(|builder| sets.into_iter().fold(builder, |builder, set| builder.set(set)));
    world.put("a.gguf", &tuned(11));
    assert_eq!(world.load(&json!({"path": "a.gguf", "promote": true, "expected_live": 0})).ok()["state"], "live");
    world.daemon.wait_for("the learner stands at it", |d| {
        let training = d.get("/v1/training").ok();
        training["version"] == 1 && training["state"] == "waiting"
    });
    let shape = policy::checkpoint::shape_of_file(&model::file()).expect("a shape");
    let adapter = Adapter::new(&shape, LoraShape { rank: 2, alpha: 4.0 }, 1, &Device::Cpu).expect("an adapter");
    let adapter = adapter.to_checkpoint(&good().metadata).expect("a checkpoint");
    world.put("adapter.gguf", &adapter.to_bytes().expect("a file"));
    let error = world.load(&json!({"path": "adapter.gguf"})).error(400);
    assert!(error["message"].as_str().expect("a message").contains("ppo.lora_rank"), "{error}");
}

#[test]
fn without_a_folder_nothing_is_loaded() {
    let daemon = TestDaemon::start();
    let error = daemon.post("/v1/policies", &json!({"path": "a.gguf"})).error(403);
    assert!(error["message"].as_str().expect("a message").contains("daemon.import_dir"), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    let absent = TestDaemon::builder().set("daemon.import_dir=/nowhere").try_start(folder.path());
    assert!(absent.err().expect("no such folder").to_string().contains("daemon.import_dir"));
}

/// Goal: of two loads at once one is turned away, and neither spoils the other. Method: many at once, of two files.
#[test]
fn loads_at_once_are_taken_in_turn_or_turned_away() {
    let world = world(|builder| builder);
    let names: Vec<String> = (0..6).map(|i| format!("{i}.gguf")).collect();
    for (seed, name) in (20..).zip(&names) {
        world.put(name, &tuned(seed));
    }
    let world = &world;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let loads: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(move || world.load(&json!({"path": name, "promote": true})).status))
            .collect();
        loads.into_iter().map(|load| load.join().expect("an answer")).collect()
    });
    let n_taken = statuses.iter().filter(|status| **status == 200).count();
    assert!(n_taken >= 1 && statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert_eq!(world.imports("promoted"), n_taken as f64);
    world.fingerprint();
}

/// Goal: a folder can be dropped into. Method: a file that grows is left alone until it stands still, one is renamed into its
/// place, a broken one is told of once; a restart takes none of them again.
#[test]
fn a_watched_folder_takes_files_that_stand_still() {
    let watched = |builder: Builder| builder.set("daemon.import_watch=promote").set("daemon.import_poll_ms=500");
    let mut world = world(watched);
    let live = |n: u64| move |d: &TestDaemon| d.get("/v1/policies").ok()["live"] == n;
    let (a, b) = (tuned(11), tuned(12));
    for end in (1..=10).map(|tenth| a.len() * tenth / 10) {
        world.put("a.gguf", &a[..end]);
        std::thread::sleep(Duration::from_millis(40));
    }
    world.daemon.wait_for("a.gguf is live", live(1));
    assert_eq!(world.imports("refused"), 0.0, "nothing was taken half written");
    world.put("b.tmp", &b);
    fs::rename(world.models.path().join("b.tmp"), world.models.path().join("b.gguf")).expect("renamed");
    world.daemon.wait_for("b.gguf is live", live(2));
    world.put("broken.gguf", b"not a model");
    symlink(model::file(), world.models.path().join("link.gguf")).expect("a link");
    let rows = |data: &Path| LogReader::open(data).and_then(|log| log.imports()).expect("rows");
    world.daemon.wait_for("two are refused", |_| rows(world.data.path()).len() == 4);
    assert_eq!(world.imports("refused"), 2.0);
    let before = rows(world.data.path());
    assert!(before.iter().all(|row| row.source == ImportSource::Folder));
    fs::remove_file(world.models.path().join("broken.gguf")).expect("removed");
    fs::remove_file(world.models.path().join("link.gguf")).expect("removed");
    world.daemon.post("/v1/policies/0/activate", &json!({})).ok();
    world.daemon.stop();
    let builder = TestDaemon::builder().set(format!("daemon.import_dir={}", world.models.path().display()));
    world.daemon = watched(builder).start_in(world.data.path());
    world.put("c.gguf", &tuned(13));
    world.daemon.wait_for("c.gguf is live", live(3));
    // Live comes before the row that says so.
    world.daemon.wait_for("the row of c.gguf", |_| rows(world.data.path()).len() >= 5);
    assert_eq!(rows(world.data.path()).len(), 5, "what was known was left alone");
}
