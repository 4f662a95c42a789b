//! The pump with plain functions in the reward model's place, over a real log and a real vocabulary.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize},
    time::Instant,
};

use policy::{Rollout, architecture::Shape, byte_pair::Bpe, transformer::random_checkpoint};
use reward::{Judgement, Label, NamedJudge, sources::model::Judge};

use super::*;
use crate::rollout_log::{LogSettings, PageQuery, RolloutState, exchange};

struct World {
    dir: tempfile::TempDir,
    log: RolloutLog,
    config: config::Reward,
}

impl World {
    fn new(change: impl FnOnce(&mut config::Reward)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config::Config::default().reward;
        change(&mut config);
        let settings = LogSettings { commit_ms: 1, queue: 64, rescore_on_feedback: config.source == "feedback" };
        let log = RolloutLog::open(&dir.path().join("data"), &settings).unwrap();
        World { dir, log, config }
    }

    fn vocabulary(&self) -> Arc<Vocabulary> {
        let bpe = Bpe::learn(["a sea of blue, a blue sea"].into_iter(), 264, &["<|end|>", "<|pad|>"]).unwrap();
        let shape = Shape::llama(bpe.size(), 8, 1, 2, 2, 16);
        let mut checkpoint = random_checkpoint(&shape, 1).unwrap();
        checkpoint.metadata.extend(bpe.metadata("x"));
        let path = self.dir.path().join("vocabulary.gguf");
        checkpoint.write(&path).unwrap();
        Arc::new(Vocabulary::load(&path).unwrap())
    }

    fn pump(&self, judge: impl Fn(&[Vec<TokenId>]) -> Result<Vec<f64>, String> + Send + Sync + 'static) -> ScoringPump {
        let judge: Judge = Arc::new(move |sequences| Ok(judge(sequences)?.into_iter().map(Judgement::from).collect()));
        let model = NamedJudge { version: "model@ab".to_string(), judge };
        let scorer = Scorer::start(&self.config, Some(model), 1).unwrap();
        ScoringPump::start(self.log.clone(), scorer, self.vocabulary(), &self.config).unwrap()
    }

    fn rows(&self) -> Vec<LoggedRollout> {
        let query = PageQuery { limit: 1000, ..PageQuery::default() };
        self.log.reader().page(&query).unwrap()
    }

    fn until(&self, what: &str, is_true: impl Fn(&[LoggedRollout]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_true(&self.rows()) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn all(state: RolloutState) -> impl Fn(&[LoggedRollout]) -> bool {
    move |rows| rows.iter().all(|row| row.state == state)
}

/// The last token's id: what a judge that reads prompt and response can be told apart by.
fn last_id(sequences: &[Vec<TokenId>]) -> Result<Vec<f64>, String> {
    Ok(sequences.iter().map(|sequence| f64::from(sequence.last().unwrap().0)).collect())
}

#[test]
fn every_rollout_gets_its_own_score_and_the_name_of_its_judge() {
    let world = World::new(|config| config.batch = 4);
    for n in 0..10 {
        world.log.append(exchange(n, 0)).unwrap();
    }
    let pump = world.pump(last_id);
    world.until("ten scores", |rows| rows.len() == 10 && all(RolloutState::Scored)(rows));
    for row in world.rows() {
        let score = row.score.unwrap();
        assert_eq!(score.score, f64::from(row.rollout.response.last().unwrap().id.0));
        assert_eq!(score.reward_version, "model@ab");
    }
    // Counted once the rows are settled, so only an ended pump has counted them all.
    let counters = pump.counters();
    assert!(pump.stop(Duration::from_secs(60)));
    assert_eq!(counters.stored.load(Ordering::Relaxed), 10);
}

#[test]
fn a_judge_that_fails_leaves_rollouts_unscored_until_it_recovers() {
    let world = World::new(|_| ());
    let (is_down, n_calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    world.log.append(exchange(1, 0)).unwrap();
    let (down, calls) = (Arc::clone(&is_down), Arc::clone(&n_calls));
    let pump = world.pump(move |sequences| {
        calls.fetch_add(1, Ordering::Relaxed);
        if down.load(Ordering::Relaxed) { Err("out of order".to_string()) } else { last_id(sequences) }
    });
    world.until("two attempts", |_| n_calls.load(Ordering::Relaxed) >= 2);
    assert!(all(RolloutState::Generated)(&world.rows()), "a failure is no score");
    assert!(pump.counters().deferred.load(Ordering::Relaxed) >= 1);
    is_down.store(false, Ordering::Relaxed);
    world.until("the score", all(RolloutState::Scored));
}

#[test]
fn a_score_that_is_no_number_drops_its_rollout_and_spares_the_others() {
    let world = World::new(|_| ());
    for n in 0..3 {
        world.log.append(exchange(n, 0)).unwrap();
    }
    let odd = |sequences: &[Vec<TokenId>]| {
        let mut scores = last_id(sequences)?;
        scores.iter_mut().filter(|score| **score == 3.0).for_each(|score| *score = f64::NAN);
        Ok(scores)
    };
    let _pump = world.pump(odd);
    world
        .until("three verdicts", |rows| rows.len() == 3 && rows.iter().all(|row| row.state != RolloutState::Generated));
    let rows = world.rows();
    assert_eq!(rows[1].reason, Some(DropReason::NonFinite));
    assert_eq!((rows[0].state, rows[2].state), (RolloutState::Scored, RolloutState::Scored));
}

/// Goal: what one rollout does to its judge is no other rollout's business. Method: the oldest one always fails, alone in its batch
/// and with others.
#[test]
fn a_rollout_that_cannot_be_judged_does_not_hold_up_those_behind_it() {
    for batch in [1, 2, 32] {
        let world = World::new(|config| config.batch = batch);
        for n in 0..5 {
            world.log.append(exchange(n, 0)).unwrap();
        }
        let poison = exchange(0, 0).response.last().unwrap().id;
        let pump = world.pump(move |sequences| match sequences.iter().any(|ids| ids.last() == Some(&poison)) {
            true => Err("it chokes".to_string()),
            false => last_id(sequences),
        });
        world.until("the others' scores", |rows| {
            rows.len() == 5 && rows[1..].iter().all(|row| row.state == RolloutState::Scored)
        });
        assert_eq!(world.rows()[0].state, RolloutState::Generated, "it may be judged another day");
        world.log.append(exchange(5, 0)).unwrap();
        world.until("one that comes later", |rows| rows.len() == 6 && rows[5].state == RolloutState::Scored);
        assert!(pump.counters().deferred.load(Ordering::Relaxed) >= 1);
    }
}

/// Goal: people are waited for, heard, and given up on. Method: one old rollout without feedback, one with, one young.
#[test]
fn feedback_is_waited_for_and_then_falls_back() {
    let world = World::new(|config| {
        config.source = "feedback".to_string();
        config.feedback_wait_s = 3600;
        config.feedback_fallback = "drop".to_string();
    });
    let young = |n| Rollout { created_ms: now_ms(), ..exchange(n, 0) };
    world.log.append(exchange(0, 0)).unwrap();
    world.log.append(young(1)).unwrap();
    world.log.append(young(2)).unwrap();
    let up = |n| Feedback {
        id: exchange(n, 0).id,
        user: None,
        score: None,
        label: Some(Label::Up),
        edit: None,
        comment: None,
        created_ms: now_ms(),
    };
    world.log.append_feedback(up(1)).unwrap();
    let _pump = world.pump(|_| Err("nobody asks the model".to_string()));
    world.until("two verdicts", |rows| {
        rows[0].reason == Some(DropReason::NoFeedback) && rows[1].state == RolloutState::Scored
    });
    assert_eq!(world.rows()[1].score.as_ref().unwrap().score, 1.0);
    assert_eq!(world.rows()[2].state, RolloutState::Generated, "it may still be judged by people");
    world.log.append_feedback(Feedback { score: Some(-2.0), ..up(1) }).unwrap();
    world.until("the new judgement", |rows| rows[1].score.as_ref().is_some_and(|score| score.score == -2.0));
    world.log.append_feedback(up(1)).unwrap();
    world.until("the thumb after the score", |rows| rows[1].score.as_ref().is_some_and(|score| score.score == 1.0));
}

/// Goal: a word that comes while the judge thinks is heard, although the verdict was made without it. Method: the judge
/// speaks up for the user before it answers, once.
#[test]
fn feedback_during_the_judging_is_heard() {
    let world = World::new(|config| {
        config.source = "feedback".to_string();
        config.feedback_wait_s = 0;
        config.feedback_fallback = "model".to_string();
    });
    world.log.append(exchange(0, 0)).unwrap();
    let (log, n_asked) = (world.log.clone(), Arc::new(AtomicUsize::new(0)));
    let asked = Arc::clone(&n_asked);
    let _pump = world.pump(move |sequences| {
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            let words = Feedback {
                id: exchange(0, 0).id,
                user: None,
                score: Some(-2.0),
                label: None,
                edit: None,
                comment: None,
                created_ms: now_ms(),
            };
            assert!(log.append_feedback(words).unwrap().applied, "it was said to count");
        }
        Ok(vec![7.0; sequences.len()])
    });
    world.until("a verdict", |rows| rows.first().is_some_and(|row| row.state == RolloutState::Scored));
    assert_eq!(world.rows()[0].score.as_ref().unwrap().score, -2.0);
    assert_eq!(n_asked.load(Ordering::Relaxed), 1);
}
