//! A daemon without HTTP.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use policy::{
    PolicyVersion, Rollout, SamplingParams, TokenId,
    engine::{Engine, Event, GenerateRequest, Target},
};
use reward::{Judgement, NamedJudge, sources::model::Judge};

use super::super::*;
use crate::{
    rollout_log::{LogSettings, PageQuery, RolloutState, ScoreRecord, Verdict},
    test_world::served_model,
};

/// Tokens of prompt and response together: short, so that the daemon's limit ends what no end token ends.
const CONTEXT: u32 = 24;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct World {
    /// Ends before the folder is removed.
    pub(super) learner: Option<Learner>,
    pub(super) engine: Engine,
    pub(super) log: RolloutLog,
    pub(super) registry: Registry,
    pub(super) config: config::Ppo,
    n_requests: u64,
    folder: Folder,
}

/// A data directory and the model that it was begun with.
pub(super) struct Folder {
    path: PathBuf,
    /// `None` in a child process, whose parent owns the folder.
    _owned: Option<tempfile::TempDir>,
}

impl Folder {
    pub(super) fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        served_model().write(&path.join("sft.gguf")).unwrap();
        Folder { path, _owned: Some(dir) }
    }

    /// A folder that another process began.
    pub(super) fn at(path: PathBuf) -> Folder {
        Folder { path, _owned: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens everything, serves the live version, starts no learner yet.
    pub(super) fn open(self, change: impl FnOnce(&mut config::Ppo)) -> World {
        self.open_with(|_| (), change)
    }

    fn open_with(
        self,
        change_policy: impl FnOnce(&mut config::Policy),
        change: impl FnOnce(&mut config::Ppo),
    ) -> World {
        let mut config = config::Config::default();
        config.policy.context_tokens = CONTEXT;
        config.policy.threads = 1;
        config.policy.parallel = 4;
        change_policy(&mut config.policy);
        config.ppo = small(config.ppo);
        change(&mut config.ppo);
        let settings = LogSettings { commit_ms: 5, queue: 1024, rescore_on_feedback: false };
        let log = RolloutLog::open(&self.path.join("data"), &settings).unwrap();
        let registry = Registry::open(log.clone(), &self.path.join("sft.gguf"), config.ppo.keep_versions).unwrap();
        let engine = Engine::start(&config.policy, &registry.path(PolicyVersion::SFT)).unwrap();
        // Ids and seeds go on where the last process stopped.
        let n_requests = log.reader().stats().unwrap().n_rollouts;
        let live = registry.live().unwrap();
        if live.version != PolicyVersion::SFT {
            engine.load(live.version, &live.path).unwrap();
            engine.promote(live.version).unwrap();
        }
        World { learner: None, engine, log, registry, config: config.ppo, n_requests, folder: self }
    }
}

fn small(config: config::Ppo) -> config::Ppo {
    config::Ppo {
        rollouts_per_update: 8,
        minibatch: 4,
        warmup_updates: 0,
        policy_learning_rate: 1e-3,
        value_learning_rate: 1e-3,
        threads: 2,
        ..config
    }
}

impl World {
    pub(super) fn new(change: impl FnOnce(&mut config::Ppo)) -> World {
        Folder::new().open(change)
    }

    pub(super) fn with(
        change_policy: impl FnOnce(&mut config::Policy),
        change: impl FnOnce(&mut config::Ppo),
    ) -> World {
        Folder::new().open_with(change_policy, change)
    }

    pub(super) fn folder_path(&self) -> &Path {
        self.folder.path()
    }

    /// As [`World::start_learner`], with somebody who judges the trials of the gate.
    pub(super) fn start_learner_judged_by(&mut self, rule: fn(&[TokenId]) -> f64) -> Learner {
        let judge: Judge = Arc::new(move |sequences: &[Vec<TokenId>]| {
            Ok(sequences.iter().map(|ids| Judgement::from(rule(ids))).collect())
        });
        let judge = NamedJudge { version: "model@ab".to_string(), judge };
        let scorer = Scorer::start(&config::Config::default().reward, Some(judge), 1).unwrap();
        self.start_with(Some(scorer))
    }

    pub(super) fn start_learner(&mut self) -> Learner {
        self.start_with(None)
    }

    pub(super) fn start_with(&mut self, scorer: Option<Scorer>) -> Learner {
        let learner = Learner::start(self.setup(scorer)).unwrap();
        self.learner = Some(learner.clone());
        learner
    }

    /// What a learner of this world works with.
    pub(super) fn setup(&self, scorer: Option<Scorer>) -> LearnerSetup {
        LearnerSetup {
            config: self.config.clone(),
            log: self.log.clone(),
            registry: self.registry.clone(),
            engine: self.engine.clone(),
            value_start: ValueStart::Policy,
            pretraining: [].into(),
            measured_texts: [].into(),
            scorer,
            questions: [].into(),
        }
    }

    /// Asks for `n` responses at once and logs them, as the daemon does. The daemon's limit ends most of them.
    pub(super) fn serve(&mut self, n: u64) -> Vec<Rollout> {
        self.serve_with(n, |_| ())
    }

    /// As [`World::serve`], with ends that the client names: every ninth token ends a response.
    pub(super) fn serve_ending(&mut self, n: u64) -> Vec<Rollout> {
        self.serve_with(n, end_often)
    }

    /// As [`World::serve`], drawn in another way.
    pub(super) fn serve_with(&mut self, n: u64, change: impl Fn(&mut SamplingParams)) -> Vec<Rollout> {
        let rollouts = self.draw(n, change);
        rollouts.iter().for_each(|rollout| self.log.append(rollout.clone()).unwrap());
        self.log.flush().unwrap();
        rollouts
    }

    /// The same, of which nothing is logged.
    pub(super) fn draw(&mut self, n: u64, change: impl Fn(&mut SamplingParams)) -> Vec<Rollout> {
        let (sender, events) = channel();
        for _ in 0..n {
            self.n_requests += 1;
            let sender = sender.clone();
            let mut sampling =
                SamplingParams { max_tokens: 2 * CONTEXT, seed: Some(self.n_requests), ..SamplingParams::default() };
            change(&mut sampling);
            let request = GenerateRequest {
                id: format!("cmpl-{:016x}", self.n_requests),
                prompt: self.engine.vocabulary().tokenize("a blue").unwrap(),
                sampling,
                sink: Box::new(move |event| drop(sender.send(event))),
                ..GenerateRequest::default()
            };
            self.engine.submit(Target::Live, request).unwrap();
        }
        drop(sender);
        let mut rollouts = Vec::new();
        for event in events {
            match event {
                Event::Finished(finished) => rollouts.push(finished.rollout),
                Event::Prompt { .. } | Event::Token { .. } => {}
                Event::Failed(_) => panic!("a request failed"),
            }
        }
        assert_eq!(rollouts.len() as u64, n);
        rollouts
    }

    /// Judges everything that waits, by a rule that the learner cannot know.
    pub(super) fn judge(&self, rule: impl Fn(&Rollout) -> f64) {
        self.judge_as("rule", rule);
    }

    /// The same in another judge's name.
    pub(super) fn judge_as(&self, judge: &str, rule: impl Fn(&Rollout) -> f64) {
        let rows = self.log.reader().unscored(None, 10_000, u64::MAX).unwrap();
        let verdict = |rollout: &Rollout| {
            let score = rule(rollout);
            Verdict::Scored(ScoreRecord { score, std: None, reward_version: judge.to_string() })
        };
        self.log.score(rows.iter().map(|row| (row.seq, verdict(&row.rollout))).collect()).unwrap();
    }

    /// Traffic for one update.
    pub(super) fn feed(&mut self) {
        let n = self.config.rollouts_per_update as u64;
        self.serve(n);
        self.judge(planted);
    }

    pub(super) fn states(&self) -> HashMap<RolloutState, usize> {
        let rows = self.log.reader().page(&PageQuery { limit: 100_000, ..PageQuery::default() }).unwrap();
        let mut counts = HashMap::new();
        for row in rows {
            *counts.entry(row.state).or_insert(0) += 1;
        }
        counts
    }

    /// Ends everything and hands the folder on, as a restart does.
    pub(super) fn close(mut self) -> Folder {
        if let Some(learner) = self.learner.take() {
            assert!(learner.shutdown(PATIENCE));
        }
        self.engine.shutdown(Duration::from_secs(10));
        self.log.close();
        self.folder
    }

    pub(super) fn until_updates(&self, learner: &Learner, n: usize) -> Vec<UpdateRecord> {
        eventually("an update", || learner.history().len() >= n);
        learner.history()
    }
}

/// Every ninth token ends a response.
pub(super) fn end_often(sampling: &mut SamplingParams) {
    sampling.stop_token_ids = (5..270).step_by(9).map(TokenId).collect();
}

/// A score that some responses get and others do not.
pub(super) fn planted(rollout: &Rollout) -> f64 {
    f64::from(rollout.response[0].id.0 % 7) - 3.0
}

/// Waits for something that another thread brings about.
pub(super) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether this is the process that the test of this name has to itself, as one that arms failpoints must: they are the whole
/// process'. Elsewhere such a process is started and has to pass.
pub(super) fn is_alone(name: &str) -> bool {
    const ALONE: &str = "HONED_TEST_ALONE";
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--nocapture"]).env(ALONE, name).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
    false
}

/// The response's ids.
pub(super) fn ids(rollout: &Rollout) -> Vec<TokenId> {
    rollout.response.iter().map(|token| token.id).collect()
}
