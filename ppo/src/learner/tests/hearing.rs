//! Whom the watch hears: everybody who was answered, and nobody too much.

use policy::{PolicyVersion, Rollout};
use reward::sources::Label;

use super::{super::watching::Watch, watching::*, world::*};
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
