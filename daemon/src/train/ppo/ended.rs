//! Which updates are a run's: those that end after it has begun, the one that the last process died in among them.

use std::path::Path;

use ppo::{rollout_log::LogReader, stats::UpdateRecord};

/// What tells the end of an update from any other; its numbers would not, since NaN differs from itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    update: u64,
    ended_ms: u64,
}

impl Ended {
    /// As the learner tells of it.
    pub(super) fn of(record: &UpdateRecord) -> Ended {
        Ended { update: record.update, ended_ms: record.ended_ms }
    }

    /// The newest one in this folder, for a run that has not started its learner yet: one that is asked later may have ended an
    /// update already, and that is the run's. `None` of a folder that has none, or that cannot be read: whoever opens it next
    /// says why.
    pub(super) fn newest(data_dir: &Path) -> Option<Ended> {
        let row = LogReader::open(data_dir).ok()?.newest_update().ok()??;
        Some(Ended { update: row.start.number, ended_ms: row.ended_ms? })
    }
}

#[cfg(test)]
mod tests {
    use policy::PolicyVersion;
    use ppo::{
        RolloutLog,
        rollout_log::{
            ClaimRequest, LogSettings, ScoreRecord, Settlement, UpdateChange, UpdateEnd, UpdateStart, Verdict,
        },
        stats::UpdateOutcome,
    };

    use super::*;
    use crate::train::ppo::position::answer;

    /// A log in which update 7 has begun.
    fn begun(folder: &Path) -> RolloutLog {
        let settings = LogSettings { commit_ms: 1, queue: 16, rescore_on_feedback: false };
        let log = RolloutLog::open(folder, &settings).unwrap();
        log.append(answer(0, 0)).unwrap();
        log.flush().unwrap();
        let seq = log.reader().rollout(&answer(0, 0).id).unwrap().unwrap().seq;
        let score = ScoreRecord { score: 1.0, std: None, reward_version: "rm".to_owned() };
        log.score(vec![(seq, Verdict::Scored(score))]).unwrap();
        let request = ClaimRequest { n_rollouts: 1, lineage: vec![PolicyVersion::SFT], user_share_max: 1.0 };
        let start = UpdateStart { number: 7, n_threads: 1, ..UpdateStart::default() };
        log.begin_update(request, start).unwrap();
        log
    }

    /// Goal: an update that is open when a run looks is not taken for one that had ended; that the run looks before its learner
    /// starts makes it the run's. Method: one that ends between two looks.
    #[test]
    fn an_update_that_ends_after_the_look_is_new() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Ended::newest(&folder.path().join("absent")), None);
        let log = begun(folder.path());
        assert_eq!(Ended::newest(folder.path()), None, "it has not ended");
        let end = UpdateEnd {
            number: 7,
            outcome: UpdateOutcome::NoStep,
            version: None,
            digest: None,
            state_after: String::new(),
            numbers: Default::default(),
            streak: None,
        };
        log.settle(Settlement { update: Some(UpdateChange::End(Box::new(end))), ..Settlement::default() }).unwrap();
        assert_eq!(Ended::newest(folder.path()).map(|ended| ended.update), Some(7));
    }
}
