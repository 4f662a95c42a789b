//! Files that are better, worse or no different, before a judge that pays for low token ids.

use std::{sync::Arc, time::Duration};

use policy::{
    PolicyVersion, Rollout, SamplingParams, TokenId,
    architecture::llama::TOKEN_EMBEDDING,
    checkpoint::intake::Intake,
    engine::{Engine, Event, GenerateRequest, Target},
};
use reward::{Judgement, NamedJudge, Scorer, sources::model::Judge};

use super::*;
use crate::{
    gate::names,
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
        let (sender, answers) = crossbeam_channel::unbounded();
        let request = GenerateRequest {
            id: "cmpl-1".to_owned(),
            prompt: self.engine.vocabulary().tokenize("a blue"),
            sampling: SamplingParams { max_tokens: 12, ignore_eos: true, ..SamplingParams::default() },
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
    assert!(reason.contains("reward on 16 held-out questions is lower"), "{reason}");
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
    world.close();
}

#[test]
fn an_observing_gate_takes_a_worse_file_and_one_that_is_off_does_not_look() {
    for (mode, is_looked_at) in [("observe", true), ("off", false)] {
        let world = World::new(|setup| setup.gate.gate = mode.to_owned());
        world.ask();
        assert_eq!(world.load(&saying(|id| id >= PAID)).unwrap(), PolicyVersion(1), "{mode}");
        let n_observed = world.number(1, "gate/observed");
        assert_eq!(n_observed.is_some_and(|n| n >= 1.0), is_looked_at, "{mode}: {n_observed:?}");
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
