//! Judgings that come to no verdict, and what follows them.

use super::*;

/// Goal: there is no verdict on weights that were left while they were judged. Method: an operator goes back to version 0 between the
/// answers of a trial and their scores.
#[test]
fn an_average_whose_version_was_left_meanwhile_is_given_up() {
    let mut averaging = Averaging::new(|_| ());
    let live = averaging.update();
    let learner = averaging.learner.clone();
    let leave = move || learner.activate(PolicyVersion::SFT, None, &Who::cli()).unwrap();
    averaging.meanwhile.set(Box::new(leave)).ok().unwrap();
    averaging.averages.look();
    let (row, _) = averaging.newest();
    assert_eq!((row.state, row.has_verdict(), row.path.exists()), (VersionState::Rejected, false, false));
    let why = format!("{live} is live no longer, beside which it was to be judged");
    assert_eq!(row.reason, Some(why));
    assert_eq!((averaging.counts(), averaging.world.engine.live()), (vec![0, 0, 1], PolicyVersion::SFT));
    averaging.averages.look();
    assert_eq!(averaging.newest().0.version, row.version, "version 0 has no average");
    averaging.close();
}

/// Goal: what the end of the process cut short is judged by the next one. Method: the engine shuts down between the answers of a
/// trial and their scores; then the same folder again.
#[test]
fn a_judging_that_was_cut_short_is_begun_anew_at_the_next_start() {
    let mut averaging = Averaging::new(|_| ());
    let live = averaging.update();
    let engine = averaging.world.engine.clone();
    let stop = move || assert!(engine.shutdown(Duration::from_secs(10)));
    averaging.meanwhile.set(Box::new(stop)).ok().unwrap();
    averaging.averages.look();
    let (row, _) = averaging.newest();
    assert_eq!((row.state, row.has_verdict(), row.path.exists()), (VersionState::Rejected, false, false));
    let mut averaging = Averaging::over(averaging.close().open(averaging_knobs));
    assert_eq!(averaging.averages.board().reward_difference(), None);
    averaging.averages.look();
    let (again, _) = averaging.newest();
    assert_eq!((again.version, again.state), (row.version.next(), VersionState::Retained));
    assert_eq!(again.averaged().map(|of| of.last), Some(live));
    let difference = averaging.averages.board().reward_difference().unwrap();
    let averaging = Averaging::over(averaging.close().open(averaging_knobs));
    assert_eq!(averaging.averages.board().reward_difference(), Some(difference), "a restart still knows");
    averaging.close();
}

/// Goal: what cannot be judged is told of once, and the average of the next version has its turn. Method: a file that is gone.
#[test]
fn an_average_that_cannot_be_read_is_not_tried_until_the_next_version() {
    let mut averaging = Averaging::new(|_| ());
    let live = averaging.update();
    fs::remove_file(averaging.world.registry.companion(live, FILE_SUFFIX)).unwrap();
    for _ in 0..2 {
        averaging.averages.look();
        assert_eq!((averaging.newest().0.version, averaging.counts()), (live, vec![0, 0, 1]));
    }
    let next = averaging.update();
    averaging.averages.look();
    let of = Averaged { first: PolicyVersion::SFT, last: next, decay: DECAY };
    assert_eq!((averaging.newest().0.averaged(), averaging.counts()), (Some(of), vec![1, 0, 1]));
    averaging.close();
}

/// Goal: an average costs neither a copy nor a number while there is no place for it, and has its turn when there is. Method: a
/// version that stays in memory beside the live one, and then goes.
#[test]
fn an_average_waits_while_every_place_in_memory_is_taken() {
    let mut averaging = Averaging::new(|_| ());
    averaging.update();
    let other = PolicyVersion(9);
    let Averaging { world, averages, .. } = &mut averaging;
    world.engine.load(other, &world.registry.path(PolicyVersion::SFT)).unwrap();
    averages.look();
    assert_eq!(averaging.newest().1, 2);
    averaging.world.engine.retire(other).unwrap();
    averaging.averages.look();
    assert_eq!((averaging.newest().1, averaging.counts()), (3, vec![1, 0, 0]));
    averaging.close();
}
