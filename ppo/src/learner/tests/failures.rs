//! Failures of the engine, and which version the watch holds them against.

use std::collections::BTreeMap;

use candle_core::Tensor;
use policy::{
    PolicyVersion, SamplingParams, TokenId,
    architecture::llama::{OUTPUT, TOKEN_EMBEDDING},
    engine::{Event, GenerateRequest, Target},
};

use super::{super::watching::Watch, watching::*, world::*};
use crate::{registry::Candidate, test_world::served_model};

/// A token that the canary of a load does not have among its own.
const SPOILT: u32 = 17;

/// Version 0's weights, but that whoever reads one token computes no numbers any more.
fn register_a_spoilt_version(world: &World) -> PolicyVersion {
    register_a_spoilt_child(world, PolicyVersion::SFT)
}

pub(super) fn register_a_spoilt_child(world: &World, parent: PolicyVersion) -> PolicyVersion {
    let checkpoint = broken_at(SPOILT as usize);
    let version = world.registry.next_version().unwrap();
    let digest = checkpoint.write(&world.registry.path(version)).unwrap();
    world.registry.register(&Candidate { version, parent, digest, n_rollouts: 0 }).unwrap();
    world.registry.keep(version, BTreeMap::new()).unwrap();
    version
}

/// The served model with one row of its embedding that is no number, and an output of its own, which is whole.
pub(super) fn broken_at(id: usize) -> policy::checkpoint::Checkpoint {
    let mut checkpoint = served_model();
    let table = checkpoint.tensors[TOKEN_EMBEDDING].clone();
    let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
    rows[id].fill(f32::NAN);
    let broken = Tensor::from_vec(rows.concat(), table.dims(), table.device()).unwrap();
    checkpoint.tensors.insert(TOKEN_EMBEDDING.to_string(), broken);
    checkpoint.tensors.insert(OUTPUT.to_string(), table);
    checkpoint
}

/// One request that may fail; its end.
pub(super) fn ask(world: &World, target: Target, token: TokenId) -> Event {
    let (sender, events) = std::sync::mpsc::channel();
    let request = GenerateRequest {
        id: "cmpl-broken".to_string(),
        prompt: vec![token],
        sampling: SamplingParams { max_tokens: 2, ..SamplingParams::default() },
        sink: Box::new(move |event| drop(sender.send(event))),
        ..GenerateRequest::default()
    };
    world.engine.submit(target, request).unwrap();
    let is_end = |event: &Event| matches!(event, Event::Finished(_) | Event::Failed(_));
    events.iter().find(is_end).expect("every request ends")
}

pub(super) fn fail(world: &World, version: PolicyVersion) {
    for _ in 0..8 {
        assert!(matches!(ask(world, Target::Version(version), TokenId(SPOILT)), Event::Failed(_)));
    }
}

/// Goal: nobody leaves service for what another version did, be it a canary or one that somebody named. Method: a version fails
/// beside the live one, and then as the live one.
#[test]
fn failures_are_held_against_the_version_that_failed() {
    let world = world_with_an_import(|_| ());
    let spoilt = register_a_spoilt_version(&world);
    let watch = Watch::new(&world.setup(None));
    go_live(&world, IMPORT);
    world.engine.load(spoilt, &world.registry.path(spoilt)).unwrap();
    assert_eq!(watch.look().unwrap(), None, "nothing is known of it");
    fail(&world, spoilt);
    assert_eq!(watch.look().unwrap(), None, "it was not the live one");
    go_live(&world, spoilt);
    assert_eq!(watch.look().unwrap(), None, "not in this service");
    fail(&world, spoilt);
    let breach = watch.look().unwrap().expect("it was the live one");
    assert!(breach.live == spoilt && breach.why.contains("8 of 8 answers failed"), "{breach:?}");
    world.close();
}

/// Goal: a version is watched for failures also after it has passed. Method: a version whose first answers were all judged and are
/// good; then requests that it fails over.
#[test]
fn a_version_that_begins_to_fail_late_is_found_out() {
    let mut world = world_with_an_import(|_| ());
    let spoilt = register_a_spoilt_version(&world);
    let watch = Watch::new(&world.setup(None));
    go_live(&world, spoilt);
    assert_eq!(watch.look().unwrap(), None, "nothing is known of it");
    world.serve_with(60, |sampling| {
        end_often(sampling);
        // Drawn, and never read.
        sampling.stop_token_ids.push(TokenId(SPOILT));
    });
    world.judge(well);
    assert_eq!(watch.look().unwrap(), None, "it has passed");
    fail(&world, spoilt);
    let breach = watch.look().unwrap().expect("it fails");
    assert!(breach.good == PolicyVersion::SFT && breach.why.contains("8 of 68 answers failed"), "{breach:?}");
    world.close();
}
