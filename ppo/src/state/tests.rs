use std::{fs, ops::ControlFlow};

use policy::{PolicyVersion, TokenId};

use super::{StateFolder, StateHead, fingerprint};
use crate::{
    rollout_log::Start,
    test_world::{World, share_of},
    update::Round,
};

fn trained(seed: u64) -> World {
    let mut world = World::new(seed);
    world.config.kl_adaptive = true;
    world.config.ema_decay = 0.5;
    let rollouts = world.rollouts(8, share_of(TokenId(3)));
    let round = Round { config: &world.config, update: 0, lineage: &[PolicyVersion::SFT], pretraining: &[] };
    let outcome = round.run(&mut world.models, &rollouts, &mut || ControlFlow::Continue(())).unwrap();
    assert!(outcome.has_new_policy());
    world
}

fn head_of(world: &World, update: u64) -> StateHead {
    StateHead {
        update,
        start: Start::Rebased,
        version: PolicyVersion(3),
        digest: "abc".to_string(),
        fingerprint: fingerprint(&world.models, update).unwrap().to_string(),
    }
}

#[test]
fn what_is_restored_has_every_bit_of_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let world = trained(1);
    let file = StateFolder::of(dir.path()).file(42);
    fs::create_dir(dir.path().join("learner")).unwrap();
    let head = head_of(&world, 42);
    file.write(&world.models, &head).unwrap();
    let mut other = trained(2);
    assert_ne!(fingerprint(&other.models, 42).unwrap().to_string(), head.fingerprint);
    assert_eq!(file.restore(&mut other.models).unwrap(), head);
    assert_eq!(fingerprint(&other.models, 42).unwrap().to_string(), head.fingerprint);
    assert_eq!(other.models.kl_coef.to_bits(), world.models.kl_coef.to_bits());
    assert_eq!(file.head().unwrap(), head);
    assert_ne!(
        fingerprint(&other.models, 43).unwrap().to_string(),
        head.fingerprint,
        "the number of the update counts"
    );
}

/// Goal: a damaged file is never taken for a state. Method: one bit flipped in the head's number, in the weights and at the
/// end, and a file that ends early.
#[test]
fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = trained(1);
    fs::create_dir(dir.path().join("learner")).unwrap();
    let file = StateFolder::of(dir.path()).file(7);
    file.write(&world.models, &head_of(&world, 7)).unwrap();
    let whole = fs::read(file.path()).unwrap();
    let in_number = String::from_utf8_lossy(&whole).find("update 7").unwrap() + 7;
    for at in [in_number, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(file.path(), damaged).unwrap();
        assert!(file.restore(&mut world.models).is_err(), "byte {at}");
    }
    fs::write(file.path(), &whole[..whole.len() - 9]).unwrap();
    assert!(file.restore(&mut world.models).is_err());
    fs::write(file.path(), &whole).unwrap();
    file.restore(&mut world.models).unwrap();
}

#[test]
fn the_newest_states_stay_and_half_written_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let folder = StateFolder::of(dir.path());
    assert!(folder.updates().is_empty(), "a folder that is not there holds nothing");
    folder.create().unwrap();
    for name in ["state-2", "state-10", "state-9", "state-11.partial", "snapshot-1-0"] {
        fs::write(folder.path().join(name), b"").unwrap();
    }
    folder.create().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    assert_eq!(folder.updates(), [10, 9, 2]);
    folder.prune(1, Some(8));
    assert_eq!(folder.updates(), [10, 2], "from 2 on, update 8 can be reached");
    fs::write(folder.path().join("state-9"), b"").unwrap();
    folder.prune(2, None);
    assert_eq!(folder.updates(), [10, 9]);
    folder.prune(0, None);
    assert_eq!(folder.updates(), [10], "the newest is never removed");
}
