//! The ledger itself: each promise broken by hand, so that it is known to see.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use policy::{FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId};
use ppo::{
    RolloutLog,
    rollout_log::{
        Act, Action, Claim, ClaimRequest, LogSettings, Outcome, RolloutState, ScoreRecord, Seq, Settlement,
        UpdateChange, UpdateEnd, UpdateStart, Verdict, Who,
    },
    stats::UpdateOutcome,
};

use super::{answer_of, clients::Promise, folder::Ledger};
use crate::harness::{client::Reply, versions::publish_versions};

pub(super) fn check_that_they_are_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    publish_versions(folder.path(), 2);
    let ledger = || Ledger::new(folder.path());
    let newest = Some(PolicyVersion(2));
    ledger().check_restart(newest, Some("policy@2"));
    ledger().check_folder();
    check_seen("has no row", || ledger().check_restart(newest, Some("policy@7")));
    let promise = Promise { id: "cmpl-0".to_owned(), user: "a".to_owned(), score: 1.0 };
    check_seen("answered feedback", || {
        let mut ledger = ledger();
        ledger.expect(Vec::new(), vec![promise.clone()]);
        ledger.check_folder();
    });
    check_seen("lost: exchange", || {
        let mut ledger = ledger();
        let id = RolloutId { request: "cmpl-0".to_owned(), index: 0 };
        ledger.expect(vec![(Seq(1), id, RolloutState::Scored, None)], Vec::new());
        ledger.check_folder();
    });
    let other = tempfile::tempdir().expect("a folder");
    publish_versions(other.path(), 2);
    activate_in_words(other.path());
    check_seen("another version live", || Ledger::new(other.path()).check_folder());
    train_twice(folder.path());
    check_seen("trained twice", || ledger().check_folder());
    let mut damaging = ledger();
    damaging.damage_live_version();
    check_seen("torn", || ledger().check_restart(newest, Some("policy@2")));
    let aged = ledger();
    aged.add_old_exchanges();
    check_seen("older than what is kept", || aged.until_old_exchanges_are_gone(Duration::ZERO));
    check_seen("nobody answers", || drop(answer_of(&Reply { status: 503, headers: Vec::new(), body: Vec::new() })));
    let nameless = br#"{"id":"cmpl-0"}"#.to_vec();
    check_seen("who answered", || drop(answer_of(&Reply { status: 200, headers: Vec::new(), body: nameless })));
}

#[track_caller]
fn check_seen(what: &str, check: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err(what);
    // Words alone are a `&str`; with numbers in them they are a `String`.
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    let said = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    assert!(said.contains(what), "{said:?} does not say {what:?}");
}

/// An activation that only the audit log knows of.
fn activate_in_words(folder: &std::path::Path) {
    let log = RolloutLog::open(folder, &settings()).expect("a log");
    log.note(Act::new(&Who::cli(), Action::Activate, "policy@1".to_owned()).done());
    log.close();
}

fn settings() -> LogSettings {
    LogSettings { commit_ms: 1, queue: 16, rescore_on_feedback: false }
}

/// An exchange from the beginning of time that nobody has judged.
pub(super) fn exchange(request: &str) -> Rollout {
    let token = SampledToken { id: TokenId(1), log_prob: LogProb(-1.0), behavior: LogProb(-1.0), log_kept_mass: 0.0 };
    Rollout {
        id: RolloutId { request: request.to_owned(), index: 0 },
        version: PolicyVersion::SFT,
        prompt: vec![TokenId(1)],
        response: vec![token],
        sampling: SamplingParams::default(),
        finish: FinishReason::EndToken,
        user: None,
        created_ms: 0,
    }
}

/// Two updates that end with the same rollout, which no learner would make.
fn train_twice(folder: &std::path::Path) {
    let log = RolloutLog::open(folder, &settings()).expect("a log");
    log.append(exchange("cmpl-1")).expect("room");
    log.flush().expect("a commit");
    let score = ScoreRecord { score: 1.0, std: None, reward_version: "test".to_owned() };
    log.score(vec![(Seq(1), Verdict::Scored(score))]).expect("scored");
    for number in 0..2 {
        let start = UpdateStart { number, n_threads: 1, ..UpdateStart::default() };
        let request = ClaimRequest { n_rollouts: 1, lineage: vec![PolicyVersion::SFT], user_share_max: 1.0 };
        assert!(matches!(log.begin_update(request, start).expect("begun"), Claim::Granted(_)));
        let end = UpdateEnd {
            number,
            outcome: UpdateOutcome::NoStep,
            version: None,
            digest: None,
            state_after: String::new(),
            numbers: [].into(),
            streak: None,
        };
        let update = Some(UpdateChange::End(Box::new(end)));
        log.settle(Settlement { outcomes: vec![(Seq(1), Outcome::Released)], update }).expect("settled");
    }
    log.close();
}
