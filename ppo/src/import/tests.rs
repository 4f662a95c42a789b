//! Files that are better, worse or no different, before a judge that pays for low token ids.

use std::{sync::Arc, time::Duration};

use policy::{
    PolicyVersion, Rollout, SamplingParams, TokenId,
    architecture::llama::TOKEN_EMBEDDING,
    checkpoint::{self, intake::Intake},
    engine::{Engine, Event, GenerateRequest, Target},
};
use reward::{Judgement, NamedJudge, Scorer, sources::model::Judge};

use super::*;
use crate::{
    gate::{self, names},
    registry::Candidate,
    rollout_log::{AuditRow, LogSettings, VersionState},
    test_world::served_model,
};

/// Tokens of prompt and response together.
const CONTEXT: u32 = 24;
/// Ids below it are paid.
const PAID: u32 = 135;

/// The model with the rows of some tokens so loud that it says hardly anything else.
fn saying(are_said: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut checkpoint = served_model();
    let table = checkpoint.tensors[TOKEN_EMBEDDING].clone();
    let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
    for (id, row) in (0..).zip(&mut rows) {
        row.iter_mut().for_each(|x| *x *= if are_said(id) { 60.0 } else { 1.0 });
    }
    let n = rows[0].len();
    let flat: Vec<f32> = rows.into_iter().flatten().collect();
    let table = candle_core::Tensor::from_vec(flat, (table.dims()[0], n), &candle_core::Device::Cpu).unwrap();
    checkpoint.tensors.insert(TOKEN_EMBEDDING.to_owned(), table);
    checkpoint.to_bytes().unwrap()
}

struct World {
    dir: tempfile::TempDir,
    log: RolloutLog,
    registry: Registry,
    engine: Engine,
    importer: Importer,
}

/// What a test sets up otherwise.
struct Setup {
    gate: config::Ppo,
    is_judged: bool,
    refuses_unjudged: bool,
}

impl World {
    fn new(change: impl FnOnce(&mut Setup)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let sft = dir.path().join("sft.gguf");
        served_model().write(&sft).unwrap();
        std::fs::create_dir(dir.path().join("models")).unwrap();
        let mut config = config::Config::default();
        (config.policy.context_tokens, config.policy.threads, config.policy.parallel) = (CONTEXT, 1, 4);
        // What is tested is the reward; a model that says few words breaks the manner too.
        let gate = config::Ppo {
            gate_prompts: 16,
            gate_tokens: 12,
            gate_length_factor: 0.0,
            gate_eos_drop: 1.0,
            gate_distinct: 0.0,
            ..config.ppo.clone()
        };
        let mut setup = Setup { gate, is_judged: true, refuses_unjudged: false };
        change(&mut setup);
        let settings = LogSettings { commit_ms: 1, queue: 64, rescore_on_feedback: false };
        let log = RolloutLog::open(&dir.path().join("data"), &settings).unwrap();
        let registry = Registry::open(log.clone(), &sft, 8).unwrap();
        let engine = Engine::start(&config.policy, &registry.path(PolicyVersion::SFT)).unwrap();
        let judge: Judge = Arc::new(|sequences: &[Vec<TokenId>]| {
            let share = |ids: &Vec<TokenId>| ids.iter().filter(|id| id.0 < PAID).count() as f64 / ids.len() as f64;
            Ok(sequences.iter().map(|ids| Judgement::from(share(ids))).collect())
        });
        let named = NamedJudge { version: "model@ab".to_owned(), judge };
        let scorer = setup.is_judged.then(|| Scorer::start(&config.reward, Some(named), 1).unwrap());
        let importer = Importer::new(ImportSetup {
            log: log.clone(),
            registry: registry.clone(),
            engine: engine.clone(),
            intake: Intake::new(&dir.path().join("models"), 1 << 24).unwrap(),
            accepts: Accepts::Both,
            loss_max: 0.0,
            gate: setup.gate,
            scorer,
            questions: [].into(),
            refuses_unjudged: setup.refuses_unjudged,
        });
        World { dir, log, registry, engine, importer }
    }

    /// Somebody asks something, so that there is a question.
    fn ask(&self) -> Rollout {
        self.ask_ending_with(Vec::new())
    }

    /// The same, for an answer that ends with one of these tokens.
    fn ask_ending_with(&self, stop_token_ids: Vec<TokenId>) -> Rollout {
        let (sender, answers) = crossbeam_channel::unbounded();
        let request = GenerateRequest {
            id: "cmpl-1".to_owned(),
            prompt: self.engine.vocabulary().tokenize("a blue").unwrap(),
            sampling: SamplingParams { max_tokens: 12, ignore_eos: true, stop_token_ids, ..SamplingParams::default() },
            sink: Box::new(move |event| drop(sender.send(event))),
            ..GenerateRequest::default()
        };
        self.engine.submit(Target::Live, request).unwrap();
        let finished = answers.iter().find_map(|event| match event {
            Event::Finished(finished) => Some(finished.rollout),
            _ => None,
        });
        self.log.append(finished.clone().unwrap()).unwrap();
        self.log.flush().unwrap();
        finished.unwrap()
    }

    fn load(&self, bytes: &[u8]) -> Result<PolicyVersion, ImportError> {
        std::fs::write(self.dir.path().join("models/new.gguf"), bytes).unwrap();
        let (path, who) = (Path::new("new.gguf"), &Who::cli());
        self.importer.load(Wish { path, source: ImportSource::Api, who, promote: None })
    }

    /// As the watch of the folder finds a file; what is known of that version, or why it is none.
    fn find(&self, name: &str, bytes: &[u8]) -> Result<PolicyVersion, String> {
        std::fs::write(self.dir.path().join("models").join(name), bytes).unwrap();
        let wish = Wish { path: Path::new(name), source: ImportSource::Folder, who: &Who::folder(), promote: None };
        self.importer.load(wish).map_err(|error| error.to_string())
    }

    /// What is noted about files, as name and reason.
    fn told(&self) -> Vec<(String, Option<String>)> {
        let rows = self.log.reader().imports().unwrap();
        rows.into_iter().map(|row| (row.path, row.reason)).collect()
    }

    fn number(&self, version: u64, name: &str) -> Option<f64> {
        self.registry.row(PolicyVersion(version)).unwrap().unwrap().numbers.get(name).copied()
    }

    fn last_act(&self) -> AuditRow {
        self.log.reader().audit(0, 100).unwrap().pop().unwrap()
    }

    fn close(self) {
        self.engine.shutdown(Duration::from_secs(10));
        self.log.close();
    }
}

/// Goal: a file is judged like the learner's candidates. Method: one that says what is not paid, one that says what is, and one
/// that differs by nothing that anybody could notice, each beside version 0.
#[test]
fn a_strict_gate_refuses_a_worse_file_and_takes_a_better_or_an_equal_one() {
    let world = World::new(|_| ());
    world.ask();
    let error = world.load(&saying(|id| id >= PAID)).unwrap_err();
    let ImportError::Rejected { version, reason } = &error else { panic!("{error}") };
    assert!(reason.contains("reward on 1 prompt of recent traffic is lower"), "{reason}");
    let row = world.registry.row(*version).unwrap().unwrap();
    assert_eq!((row.state, row.reason.as_ref()), (VersionState::Rejected, Some(reason)));
    assert_eq!((row.numbers["gate/pass"], row.numbers["gate/prompts"]), (0.0, 16.0), "the report is kept");
    assert!(row.numbers[names::REWARD_DIFFERENCE] < 0.0);
    let act = world.last_act();
    assert_eq!((act.outcome(), act.detail.as_ref()), ("refused", Some(reason)));

    assert_eq!(world.load(&saying(|id| id < PAID)).unwrap(), PolicyVersion(2));
    assert!(world.number(2, names::REWARD_DIFFERENCE).unwrap() > 0.0);
    assert_eq!((world.number(2, "gate/pass"), world.number(2, UNJUDGED)), (Some(1.0), None));
    let mut same = served_model();
    let norm = (&same.tensors["output_norm.weight"] * 1.0001).unwrap();
    same.tensors.insert("output_norm.weight".to_owned(), norm);
    assert_eq!(world.load(&same.to_bytes().unwrap()).unwrap(), PolicyVersion(3));
    assert!(world.number(3, names::REWARD_DIFFERENCE).unwrap().abs() < 0.1);
    assert_eq!(world.engine.live(), PolicyVersion::SFT);
    let rungs = gate::rungs(&world.registry, PolicyVersion(2)).unwrap();
    assert_eq!((rungs.len(), rungs[0].judge.as_str()), (1, "model@ab"), "whoever comes next knows who judged it");
    world.close();
}

/// Goal: a trial compares what answers are paid. Method: a file that ends its answers at once and is judged lower for them, where length
/// costs nothing and where what it spares is worth more.
#[test]
fn a_strict_gate_counts_what_length_costs() {
    const ENDING: u32 = 230;
    for (length_penalty, is_taken) in [(0.0, false), (0.5, true)] {
        let world = World::new(|setup| setup.gate.length_penalty = length_penalty);
        world.ask_ending_with((ENDING..268).map(TokenId).collect());
        let loaded = world.load(&saying(|id| id >= ENDING));
        assert_eq!(loaded.is_ok(), is_taken, "{length_penalty}: {loaded:?}");
        let difference = world.number(1, names::REWARD_DIFFERENCE).unwrap();
        assert_eq!(difference > 0.0, is_taken, "{length_penalty}: {difference}");
        world.close();
    }
}

#[test]
fn an_observing_gate_takes_a_worse_file_and_one_that_is_off_does_not_look() {
    for (mode, is_looked_at) in [("observe", true), ("off", false)] {
        let world = World::new(|setup| setup.gate.gate = mode.to_owned());
        world.ask();
        assert_eq!(world.load(&saying(|id| id >= PAID)).unwrap(), PolicyVersion(1), "{mode}");
        let n_observed = world.number(1, "gate/observed");
        assert_eq!(n_observed.is_some_and(|n| n >= 1.0), is_looked_at, "{mode}: {n_observed:?}");
        let row = world.registry.row(PolicyVersion(1)).unwrap().unwrap();
        let is_told = row.objections().is_some_and(|told| told.contains("recent traffic is lower"));
        assert_eq!((row.state, is_told), (VersionState::Retained, is_looked_at), "{mode}: {:?}", row.reason);
        assert_eq!((world.last_act().outcome(), world.last_act().detail), ("done", row.reason), "{mode}");
        assert_eq!(world.number(1, names::REWARD_DIFFERENCE).is_some(), is_looked_at, "{mode}");
        world.close();
    }
}

/// Goal: what could not be judged says so, and the operator decides what follows. Method: no question, then nobody to judge, with
/// either word of the knob.
#[test]
fn a_file_that_nobody_could_judge_says_so() {
    for (is_judged, is_asked, word) in [(true, false, "no questions"), (false, true, "no judge")] {
        for refuses_unjudged in [false, true] {
            let world = World::new(|setup| (setup.is_judged, setup.refuses_unjudged) = (is_judged, refuses_unjudged));
            if is_asked {
                world.ask();
            }
            match (world.load(&saying(|id| id >= PAID)), refuses_unjudged) {
                (Ok(version), false) => assert_eq!(world.number(version.0, "gate/pass"), Some(1.0)),
                (Err(error), true) => {
                    let said = error.to_string();
                    assert!(said.contains(word) && said.contains("daemon.import_unjudged"), "{said}");
                    assert_eq!(world.number(1, "gate/pass"), Some(0.0));
                }
                (other, _) => panic!("{word}: {other:?}"),
            }
            assert_eq!(world.number(1, UNJUDGED), Some(1.0), "{word}");
            world.close();
        }
    }
}

/// Goal: the daemon's end does not wait until a file is read, and the file is not blamed for it. Method: an end that comes right
/// after the file has got its turn.
#[test]
fn a_file_is_read_no_further_once_the_daemon_stops() {
    let world = World::new(|_| ());
    std::fs::write(world.dir.path().join("models/new.gguf"), saying(|id| id < PAID)).unwrap();
    world.engine.shutdown(Duration::from_secs(10));
    let wish = Wish { path: Path::new("new.gguf"), source: ImportSource::Folder, who: &Who::folder(), promote: None };
    let mut row = ImportRow {
        at_ms: 0,
        source: wish.source,
        path: String::new(),
        outcome: ImportOutcome::Refused,
        digest: None,
        version: None,
        reason: None,
    };
    let error = world.importer.take(wish, &mut row).unwrap_err();
    assert!(matches!(error, ImportError::Stopping) && !error.is_final(), "{error}");
    assert_eq!((row.digest, row.version), (None, None), "it was read to its end");
    assert!(!world.registry.path(PolicyVersion(1)).exists(), "it was copied");
    world.close();
}

/// Goal: whoever copies known weights into the watched folder is told once, and nobody is told at every start. Method: the same bytes
/// under their own name, under another, twice, and under a name that was another file's meanwhile.
#[test]
fn known_weights_under_another_name_are_told_of_once() {
    let world = World::new(|setup| setup.gate.gate = "off".to_owned());
    let (a, b) = (saying(|id| id >= PAID), saying(|id| id < PAID));
    assert_eq!(world.find("a.gguf", &a).unwrap(), PolicyVersion(1));
    let known = "policy@1 has these very weights; activate it with `honed policies activate 1`";
    assert_eq!(world.find("a.gguf", &a).unwrap_err(), known);
    assert_eq!(world.told().len(), 1, "it was found again");
    for _ in 0..2 {
        assert_eq!(world.find("again.gguf", &a).unwrap_err(), known);
    }
    assert_eq!(world.told()[1..], [("again.gguf".to_owned(), Some(known.to_owned()))]);
    let act = world.last_act();
    assert_eq!((act.outcome(), act.detail.as_deref()), ("refused", Some(known)));
    assert_eq!(world.find("a.gguf", &b).unwrap(), PolicyVersion(2));
    world.find("a.gguf", &a).unwrap_err();
    assert_eq!(world.told().len(), 4, "the name had gone over to other weights");
    world.registry.activate(PolicyVersion(1), None).unwrap();
    assert_eq!(world.find("live.gguf", &a).unwrap_err(), "policy@1 has these very weights and is live");
    world.close();
}

/// Goal: of several versions with the same weights, the one is named with which the least is to be done. Method: refused first, then
/// taken by a gate that does not look, as whoever asks for it may have it.
#[test]
fn of_versions_with_the_same_weights_the_one_that_can_serve_is_named() {
    let world = World::new(|_| ());
    world.ask();
    let worse = saying(|id| id >= PAID);
    let why = world.find("a.gguf", &worse).unwrap_err();
    assert!(why.contains("policy@1 is rejected"), "{why}");
    let why = world.find("again.gguf", &worse).unwrap_err();
    let known = "policy@1 has these very weights and is rejected; POST /v1/policies has the file judged anew";
    assert_eq!(why, known);
    let digest = checkpoint::Digest::of(&worse);
    let (version, parent) = (world.registry.next_version().unwrap(), PolicyVersion::SFT);
    std::fs::write(world.registry.path(version), &worse).unwrap();
    world.registry.register(&Candidate { version, parent, digest, n_rollouts: 0 }).unwrap();
    world.registry.keep(version, std::collections::BTreeMap::<String, f64>::new()).unwrap();
    let why = world.find("third.gguf", &worse).unwrap_err();
    assert!(why.starts_with("policy@2 has these very weights; activate it"), "{why}");
    world.close();
}

#[test]
fn what_begins_as_no_model_is_called_none() {
    let world = World::new(|_| ());
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
    let none = "it is neither a GGUF nor a safetensors file";
    let cases: [(&[u8], &str); 7] = [
        (b"", none),
        (b"GG", none),
        (b"<!DOCTYPE html><html>404</html>", none),
        (&[0xa5; 64], none),
        (&[0; 64], none),
        (b"GGUF", "ends inside"),
        (&safetensors, "honed.tokenizer"),
    ];
    for (bytes, word) in cases {
        let why = world.load(bytes).unwrap_err().to_string();
        assert!(why.contains(word), "{bytes:?}: {why}");
    }
    world.close();
}

/// Goal: a file for which there is no place costs neither a copy nor a number, and may come again. Method: two versions that stay in
/// memory; then one of them goes.
#[test]
fn a_file_waits_outside_while_every_place_in_memory_is_taken() {
    let world = World::new(|_| ());
    let others = [8, 9].map(PolicyVersion);
    for version in others {
        world.engine.load(version, &world.registry.path(PolicyVersion::SFT)).unwrap();
    }
    let file = saying(|id| id < PAID);
    let error = world.load(&file).unwrap_err();
    assert!(matches!(error, ImportError::Full) && !error.is_final(), "{error}");
    assert!(world.find("again.gguf", &file).is_err());
    assert_eq!(world.last_act().outcome(), "refused");
    assert_eq!(world.log.reader().audit(0, 100).unwrap().len(), 1, "what the folder brings comes again by itself");
    world.engine.retire(others[0]).unwrap();
    assert_eq!(world.load(&file).unwrap(), PolicyVersion(1));
    world.close();
}

/// Goal: a file that has cost a copy and a number by the time that a candidate comes first is judged after it. Method: a judging for
/// which there is no place until one of two versions goes.
#[test]
fn a_copy_that_is_made_waits_for_its_place() {
    let world = World::new(|_| ());
    world.ask();
    let others = [8, 9].map(PolicyVersion);
    for version in others {
        world.engine.load(version, &world.registry.path(PolicyVersion::SFT)).unwrap();
    }
    let version = world.registry.next_version().unwrap();
    std::fs::write(world.registry.path(version), saying(|id| id < PAID)).unwrap();
    std::thread::scope(|scope| {
        let judging = scope.spawn(|| world.importer.judge(version, None));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!judging.is_finished());
        world.engine.retire(others[0]).unwrap();
        assert!(judging.join().unwrap().unwrap().refusals.is_empty());
    });
    world.close();
}
