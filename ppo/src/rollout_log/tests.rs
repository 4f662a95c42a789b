//! The log's promises, each with a test that breaks when the promise does.

mod audit;
mod claims;
mod crash;
mod faults;
mod feedback;
mod forget;
mod judges;
mod redaction;
mod retention;
mod service;
mod storage;
mod updates;

use std::path::Path;

use rusqlite::Connection;

use policy::{FinishReason, LogProb, PolicyVersion, Rollout, RolloutId, SampledToken, SamplingParams, TokenId};

use super::*;
use crate::stats::UpdateOutcome;

pub(super) fn settings() -> LogSettings {
    LogSettings { commit_ms: 20, queue: 4096, rescore_on_feedback: true }
}

pub(super) fn open(dir: &Path) -> RolloutLog {
    RolloutLog::open(dir, &settings()).unwrap()
}

/// A rollout that may train, told apart by `n`.
pub(crate) fn rollout(n: u32, version: u64) -> Rollout {
    let token = |at: u32| SampledToken {
        id: TokenId(n + at),
        log_prob: LogProb(-0.5 - at as f32),
        behavior: LogProb(-0.25 - at as f32),
        log_kept_mass: 0.0,
    };
    Rollout {
        id: RolloutId { request: format!("cmpl-{n:016x}"), index: 0 },
        version: PolicyVersion(version),
        prompt: vec![TokenId(1), TokenId(2), TokenId(n)],
        response: (0..3).map(token).collect(),
        sampling: SamplingParams { seed: Some(u64::from(n)), ..SamplingParams::default() },
        finish: FinishReason::EndToken,
        user: None,
        created_ms: 1_000 + u64::from(n),
    }
}

pub(super) fn everything(log: &RolloutLog) -> Vec<LoggedRollout> {
    log.reader().page(&PageQuery { limit: 100_000, ..PageQuery::default() }).unwrap()
}

pub(super) fn score_all(log: &RolloutLog, score: f64) -> usize {
    let rows = log.reader().unscored(None, 100_000, u64::MAX).unwrap();
    let record = ScoreRecord { score, std: None, reward_version: "test".to_string() };
    log.score(rows.into_iter().map(|row| (row.seq, Verdict::Scored(record.clone()))).collect()).unwrap()
}

pub(super) fn claim(log: &RolloutLog, n_rollouts: usize, lineage: &[u64]) -> Claim {
    let lineage = lineage.iter().copied().map(PolicyVersion).collect();
    log.claim(ClaimRequest { n_rollouts, lineage, user_share_max: 1.0 }).unwrap()
}

pub(super) fn granted(claim: Claim) -> Vec<LoggedRollout> {
    match claim {
        Claim::Granted(rows) => rows,
        Claim::Short { n_ready } => panic!("short: {n_ready}"),
    }
}
