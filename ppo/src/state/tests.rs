use std::{fs, ops::ControlFlow};

use policy::{PolicyVersion, TokenId, transformer::LoraShape};

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

/// Goal: a state of other adapters says so, and touches nothing. Method: states of whole weights and of adapters of two ranks,
/// each put into models of another form.
#[test]
fn a_state_of_another_lora_rank_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("learner")).unwrap();
    let world = |rank| World::with(5, |config| config.lora_rank = rank);
    for (wrote, reads) in [(4, 0), (0, 4), (4, 2)] {
        let file = StateFolder::of(dir.path()).file(1);
        let written = world(wrote);
        file.write(&written.models, &head_of(&written, 1)).unwrap();
        let mut read = world(reads);
        let before = fingerprint(&read.models, 1).unwrap().to_string();
        let said = file.restore(&mut read.models).unwrap_err().to_string();
        let form = |rank| if rank == 0 { "whole weights".to_owned() } else { format!("adapters of rank {rank}") };
        let expected = [format!("it is of {}", form(wrote)), format!("would go into {}", form(reads))];
        assert!(expected.iter().all(|part| said.contains(part)), "{wrote} to {reads}: {said}");
        assert_eq!(fingerprint(&read.models, 1).unwrap().to_string(), before);
    }
}

/// Goal: no tensor tells an adapter's alpha, and none of another alpha gets the factors. Method: a state of rank 4 and alpha 32,
/// put into models of alpha 128; then with a rank that cannot be, and with the lines cut out, as an earlier honed wrote it.
#[test]
fn a_state_of_another_lora_alpha_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("learner")).unwrap();
    let world = |alpha| World::with(5, |config| (config.lora_rank, config.lora_alpha) = (4, alpha));
    let (written, file) = (world(32.0), StateFolder::of(dir.path()).file(1));
    let head = head_of(&written, 1);
    file.write(&written.models, &head).unwrap();
    let form = Some(LoraShape { rank: 4, alpha: 32.0 });
    assert_eq!(file.forms().unwrap(), Some([form, form]));
    let said = file.restore(&mut world(128.0).models).unwrap_err().to_string();
    assert!(said.contains("rank 4 and alpha 32 ") && said.contains("rank 4 and alpha 128"), "{said}");
    assert_eq!(file.restore(&mut world(32.0).models).unwrap(), head);
    let lines = b"form policy 4 42000000\nform value 4 42000000\n";
    let bytes = fs::read(file.path()).unwrap();
    let at = bytes.windows(lines.len()).position(|window| window == lines).expect("lines that say the forms");
    let rest = &bytes[at + b"form policy 4".len()..];
    for first in ["form policy 0", "form policy 9999999"] {
        fs::write(file.path(), [&bytes[..at], first.as_bytes(), rest].concat()).unwrap();
        assert!(file.forms().is_err(), "{first}");
    }
    fs::write(file.path(), [&bytes[..at], &bytes[at + lines.len()..]].concat()).unwrap();
    assert_eq!(file.forms().unwrap(), None);
    assert_eq!(file.restore(&mut world(32.0).models).unwrap(), head);
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
