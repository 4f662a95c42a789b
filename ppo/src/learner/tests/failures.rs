//! Failures of the engine, and which version the watch holds them against.

use std::{collections::BTreeMap, sync::mpsc::channel};

use policy::{
    PolicyVersion, SamplingParams, TokenId,
    architecture::llama::TOKEN_EMBEDDING,
    engine::{Engine, Event, GenerateRequest, Target},
};

use super::{super::watching::Watch, watching::*, world::*};
use crate::{registry::Candidate, test_world::served_model};

/// A token that the canary of a load does not have among its own.
const SPOILT: u32 = 17;

/// Version 0's weights, but that whoever reads one token computes no numbers any more.
fn register_a_spoilt_version(world: &World) -> PolicyVersion {
    let mut checkpoint = served_model();
    let table = checkpoint.tensors[TOKEN_EMBEDDING].clone();
    let mut rows: Vec<Vec<f32>> = table.to_vec2().unwrap();
    // What it says must stay whole.
    checkpoint.tensors.insert("output.weight".to_owned(), table);
    rows[SPOILT as usize].fill(f32::NAN);
    let spoilt = candle_core::Tensor::new(rows, &candle_core::Device::Cpu).unwrap();
    checkpoint.tensors.insert(TOKEN_EMBEDDING.to_owned(), spoilt);
    let version = world.registry.next_version().unwrap();
    let digest = checkpoint.write(&world.registry.path(version)).unwrap();
    world.registry.register(&Candidate { version, parent: PolicyVersion::SFT, digest, n_rollouts: 0 }).unwrap();
    world.registry.keep(version, BTreeMap::new()).unwrap();
    version
}

fn fail(engine: &Engine, version: PolicyVersion) {
    for _ in 0..8 {
        let (sender, events) = channel();
        let request = GenerateRequest {
            id: "cmpl-fails".to_string(),
            prompt: vec![TokenId(SPOILT)],
            sampling: SamplingParams { max_tokens: 2, ..SamplingParams::default() },
            sink: Box::new(move |event| drop(sender.send(event))),
            ..GenerateRequest::default()
        };
        engine.submit(Target::Version(version), request).unwrap();
        assert!(events.iter().any(|event| matches!(event, Event::Failed(_))));
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
    fail(&world.engine, spoilt);
    assert_eq!(watch.look().unwrap(), None, "it was not the live one");
    go_live(&world, spoilt);
    assert_eq!(watch.look().unwrap(), None, "not in this service");
    fail(&world.engine, spoilt);
    let breach = watch.look().unwrap().expect("it was the live one");
    assert!(breach.live == spoilt && breach.why.contains("8 of 8 requests failed"), "{breach:?}");
    world.close();
}
