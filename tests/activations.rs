//! What an activation leaves behind, in memory and on the disk: nothing when it is refused, no more than the retention afterwards.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    importing::{World, world},
    model,
};

impl World {
    fn load_new(&self, seed: u64, body: &Value) -> crate::harness::client::Reply {
        model::write(&self.models.path().join("new.gguf"), seed);
        let mut body = body.clone();
        body["path"] = json!("new.gguf");
        self.daemon.post("/v1/policies", &body)
    }

    fn is_resident(&self, version: u64) -> bool {
        self.daemon.get(&format!("/v1/policies/{version}")).ok()["resident"] == json!(true)
    }

    fn states(&self) -> Vec<String> {
        let rows = self.daemon.get("/v1/policies").ok()["data"].as_array().expect("rows").clone();
        rows.iter().map(|row| row["state"].as_str().expect("a state").to_owned()).collect()
    }

    /// Numbers of the versions that have a file.
    fn on_disk(&self) -> Vec<u64> {
        let has_file =
            |n: &u64| fs::exists(self.data.path().join(format!("versions/policy-{n}.gguf"))).expect("readable");
        (0..100).filter(has_file).collect()
    }
}

/// Goal: what was refused answers nobody. Method: a version on the disk, a compare-and-set that is lost, and a question to it.
#[test]
fn a_refused_activation_loads_nothing() {
    let world = world(|builder| builder);
    assert_eq!(world.load_new(11, &json!({})).ok()["state"], "retained");
    world.daemon.wait_for("its memory is free", |_| !world.is_resident(1));
    let error = world.daemon.post("/v1/policies/1/activate", &json!({"expected_live": 99})).error(409);
    assert!(error["message"].as_str().expect("a message").contains("policy@99"), "{error}");
    assert!(!world.is_resident(1));
    let asked = world.daemon.post("/v1/completions", &json!({"model": "policy@1", "prompt": "a", "max_tokens": 1}));
    assert_eq!(asked.error(409)["code"], "model_not_loaded");
}

/// Goal: a file that was loaded to be made live leaves memory when that is refused. Method: with a learner, which decides, and without.
#[test]
fn a_file_that_could_not_be_made_live_leaves_memory() {
    let learner = ["ppo.enabled=true", "reward.source=feedback", "reward.feedback_fallback=drop"];
    for sets in [&learner[..], &[]] {
        let world = world(|builder| sets.iter().fold(builder, |builder, set| builder.set(*set)));
        world.load_new(11, &json!({"promote": true, "expected_live": 55})).error(409);
        world.daemon.wait_for("its memory is free", |_| !world.is_resident(1));
        assert_eq!(world.states(), ["live", "retained"]);
        world.daemon.post("/v1/policies/1/activate", &json!({"expected_live": 0})).ok();
        assert!(world.is_resident(1));
    }
}

/// Goal: `ppo.keep_versions` holds also where nobody learns. Method: imports, every other one promoted, then an activation; nothing is
/// published and nothing restarts.
#[test]
fn imports_and_activations_keep_to_the_retention() {
    let world = world(|builder| builder.set("ppo.keep_versions=2"));
    for n in 1..=6 {
        world.load_new(10 + n, &json!({"promote": n % 2 == 0})).ok();
    }
    let expected = ["retained", "retired", "retired", "retired", "retained", "retained", "live"];
    world.daemon.wait_for("what drained is retained, and the oldest retired", |_| world.states() == expected);
    world.daemon.wait_for("their files are gone", |_| world.on_disk() == [0, 4, 5, 6]);
    let error = world.daemon.post("/v1/policies/1/activate", &json!({})).error(409);
    assert!(error["message"].as_str().expect("a message").contains("retired"), "{error}");
    world.daemon.post("/v1/policies/4/activate", &json!({})).ok();
    let expected = ["retained", "retired", "retired", "retired", "live", "retained", "retained"];
    world.daemon.wait_for("the one before is retained", |_| world.states() == expected);
    assert_eq!(world.on_disk(), [0, 4, 5, 6]);
    assert_eq!(world.load_new(20, &json!({})).ok()["version"], 7);
    let expected = ["retained", "retired", "retired", "retired", "live", "retired", "retained", "retained"];
    world.daemon.wait_for("an import alone retires the oldest", |_| world.states() == expected);
}
