//! Whom the watch hears: everybody who was answered, and nobody too much.

use policy::{PolicyVersion, Rollout, SamplingParams};
use reward::sources::Label;

use super::{
    super::watching::Watch,
    failures::{fail, register_a_spoilt_child},
    watching::*,
    world::*,
};
use crate::rollout_log::{Feedback, RolloutState};

fn say(world: &World, user: Option<&str>, about: &Rollout, label: Label) {
    let (id, user) = (about.id.clone(), user.map(str::to_owned));
    let said = Feedback { id, user, score: None, label: Some(label), edit: None, comment: None, created_ms: 1 };
    world.log.append_feedback(said).unwrap();
}

/// Answers that never train, of whoever is live; somebody has seen each.
fn serve_greedily(world: &mut World, n: u64, label: Label) {
    for rollout in world.serve_with(n, |sampling| sampling.temperature = 0.0) {
        say(world, None, &rollout, label);
    }
}

/// Answers to one user, but for one to somebody else.
fn serve_as(world: &mut World, user: &str, n: u64) {
    for (at, mut rollout) in world.draw(n, end_often).into_iter().enumerate() {
        rollout.user = Some(if at == 0 { "ann" } else { user }.to_owned());
        world.log.append(rollout).unwrap();
    }
    world.log.flush().unwrap();
}

/// Goal: what users think of answers is heard although none of these can train. Method: two versions whose requests are all greedy,
/// one liked and one not.
#[test]
fn thumbs_about_answers_that_never_train_bring_a_version_down() {
    let mut world = world_with_an_import(|_| ());
    serve_greedily(&mut world, 40, Label::Up);
    let watch = Watch::new(&world.setup(None));
    go_live(&world, IMPORT);
    serve_greedily(&mut world, 40, Label::Down);
    assert_eq!(world.states()[&RolloutState::Dropped], 80, "nothing of it was scored");
    let breach = watch.look().unwrap().expect("nobody likes it");
    assert!(breach.good == PolicyVersion::SFT && breach.why.contains("thumbs down rose"), "{breach:?}");
    world.close();
}

/// Goal: nobody brings a version down alone. Method: one user who condemns what others have said nothing of, and then few good
/// words of others; and as many of others as make the one a quarter of all.
#[test]
fn one_user_among_others_brings_no_version_down() {
    let mut world = world_with_an_import(|_| ());
    serve_greedily(&mut world, 200, Label::Up);
    let watch = Watch::new(&world.setup(None));
    go_live(&world, IMPORT);
    let rollouts = world.serve_with(100, |sampling| sampling.temperature = 0.0);
    rollouts[..60].iter().for_each(|rollout| say(&world, Some("mallory"), rollout, Label::Down));
    assert!(watch.look().unwrap().is_some(), "that user is all that there is");
    for (at, rollout) in rollouts[60..68].iter().enumerate() {
        say(&world, None, rollout, Label::Up);
        assert_eq!(watch.look().unwrap(), None, "beside {} others", at + 1);
    }
    world.close();
}

/// Goal: who asks for another kind of answers brings no version down. Method: answers as long as they were, and many of one token that
/// were drawn greedily.
#[test]
fn other_kinds_of_answers_bring_no_version_down() {
    let mut world = world_with_an_import(|_| ());
    let watch = Watch::new(&world.setup(None));
    go_live(&world, IMPORT);
    let short = |sampling: &mut SamplingParams| (sampling.temperature, sampling.max_tokens) = (0.0, 1);
    world.serve_with(40, short);
    world.judge(well);
    assert_eq!(watch.look().unwrap(), None);
    world.serve_with(40, |sampling| sampling.max_tokens = 1);
    world.judge(well);
    let breach = watch.look().unwrap().expect("these may train");
    assert!(breach.why.contains("tokens"), "{breach:?}");
    world.close();
}

/// Goal: a version passes though one user alone is served. Method: that user's answers, one of somebody else among them, until the
/// window is full; thumbs that come after it.
#[test]
fn a_version_passes_whoever_it_serves() {
    let mut world = world_with_an_import(|_| ());
    let watch = Watch::new(&world.setup(None));
    go_live(&world, IMPORT);
    for n in [100, 92] {
        assert_eq!((watch.look().unwrap(), watch.has_passed()), (None, false));
        serve_as(&mut world, "webapp", n);
        world.judge(well);
    }
    assert_eq!((watch.look().unwrap(), watch.has_passed()), (None, true));
    world.close();
}

/// Goal: a version that served one user alone has served. Method: its answers are almost all of one user; its child fails.
#[test]
fn a_rollback_goes_back_to_who_served_one_user() {
    let mut world = world_with_an_import(|_| ());
    go_live(&world, IMPORT);
    serve_as(&mut world, "webapp", 100);
    let spoilt = register_a_spoilt_child(&world, IMPORT);
    let watch = Watch::new(&world.setup(None));
    go_live(&world, spoilt);
    assert_eq!(watch.look().unwrap(), None, "nothing is known of it");
    fail(&world, spoilt);
    let breach = watch.look().unwrap().expect("it fails");
    assert_eq!((breach.live, breach.good), (spoilt, IMPORT));
    world.close();
}
