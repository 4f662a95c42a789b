//! What a new process shows of the updates of the one before.

use super::{
    super::*,
    resume::{N_UPDATES, finish, refuse_everything, stocked},
};
use crate::stats::UpdateOutcome;

/// The data are somebody else's: no rollout has such a weight.
fn filter_everything(config: &mut config::Ppo) {
    (config.is_geo_low, config.is_geo_high) = (900.0, 1000.0);
}

fn object_to_everything(config: &mut config::Ppo) {
    refuse_everything(config);
    config.gate = "observe".to_string();
}

/// But for when exactly it ended and how long it took, which two clocks tell, and for what is no number.
fn comparable(history: Vec<UpdateRecord>) -> Vec<UpdateRecord> {
    let comparable = |mut record: UpdateRecord| {
        record.numbers.retain(|_, number| !number.is_nan());
        UpdateRecord { ended_ms: 0, seconds: None, ..record }
    };
    history.into_iter().map(comparable).collect()
}

/// Goal: a restart forgets nothing that can be seen of the learner. Method: updates that are promoted, refused, without a step and
/// only observed; what is shown before the restart against what is shown right after it, while three answers wait to be judged.
#[test]
fn the_history_and_the_backlog_are_there_from_the_start() {
    type Case = (fn(&mut config::Ppo), UpdateOutcome, Option<&'static str>);
    let cases: [Case; 4] = [
        (|_| (), UpdateOutcome::Promoted, None),
        (refuse_everything, UpdateOutcome::Rejected, Some("KL to version 0")),
        (filter_everything, UpdateOutcome::NoStep, Some("where it was: ess; rollouts dropped: 8 off_policy")),
        (object_to_everything, UpdateOutcome::Promoted, Some("the gate only observed: KL to version 0")),
    ];
    for (change, outcome, reason) in cases {
        let mut world = stocked(change);
        let learner = finish(&mut world);
        let before = world.until_updates(&learner, N_UPDATES as usize);
        let is_meant = |record: &UpdateRecord| match (&record.reason, reason) {
            (Some(told), Some(part)) => record.outcome == outcome && told.contains(part),
            (told, part) => record.outcome == outcome && told.is_none() && part.is_none(),
        };
        assert!(before.iter().any(is_meant), "{before:?}");
        world.serve(3);
        let config = world.config.clone();
        let mut world = world.close().open(|it| *it = config);
        let learner = world.start_learner();
        let status = learner.status();
        assert_eq!((status.n_updates, status.n_scored, status.n_generated), (N_UPDATES, 0, 3));
        assert_eq!(status.latest, learner.history().pop());
        let after = learner.history();
        assert!(after.iter().all(|record| record.seconds.is_some() && record.ended_ms > 0));
        assert_eq!(comparable(after), comparable(before));
        world.close();
    }
}
