//! What commands tell of versions that serve although something was wrong with them, and of version 0.

use policy::PolicyVersion;
use ppo::{
    Registry, RolloutLog,
    registry::Candidate,
    rollout_log::{LogSettings, VersionReport, VersionRow},
};
use serde_json::Value;

use super::told;
use crate::harness::{
    client::{self, request},
    model,
    process::Process,
    versions::publish_versions,
};

const OBJECTIONS: &str = "distinct pairs of tokens in the trial's answers: expected at least 0.4490, got 0.0054";

/// Version 2, which an observing gate let pass.
fn publish_observed(data: &std::path::Path) {
    let settings = LogSettings { commit_ms: 10, queue: 64, rescore_on_feedback: false };
    let log = RolloutLog::open(data, &settings).expect("a log");
    let registry = Registry::open(log.clone(), &model::file(), 100).expect("a registry");
    let version = PolicyVersion(2);
    model::write(&registry.path(version), 9);
    let digest = policy::checkpoint::digest(&registry.path(version)).expect("a digest");
    let candidate = Candidate { version, parent: PolicyVersion(1), digest, n_rollouts: 8 };
    registry.register(&candidate).expect("registered");
    let numbers = [("gate/pass".to_owned(), 1.0), ("gate/observed".to_owned(), 1.0)].into();
    let report = VersionReport { numbers, remark: Some(format!("{}{OBJECTIONS}", VersionRow::OBSERVED)) };
    registry.publish(version, Vec::new(), report).expect("published");
    log.close();
}

/// Goal: what an observing gate objected to is told wherever an operator looks, and is no reason against serving. Method: a version
/// with an objection, by every command and by the daemon, while it is live and after another was activated.
#[test]
fn what_an_observing_gate_objected_to_is_told_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 1);
    publish_observed(data);
    let remark = format!("the gate only observed: {OBJECTIONS}");
    let everywhere = |of_why: &str| {
        let list = told(data, &["policies", "list"]);
        let line = list.lines().find(|line| line.starts_with("policy@2")).expect("its line");
        assert!(line.ends_with(&remark), "{line}");
        assert!(told(data, &["policies", "show", "2"]).contains(&remark));
        let why = told(data, &["why", "2"]);
        assert!(why.starts_with(of_why), "{why}");
        assert!(why.contains(&format!("would have refused it: {OBJECTIONS}.")), "{why}");
    };
    everywhere("policy@2 is live: it answers\n");
    let audit = told(data, &["audit"]);
    assert!(audit.lines().any(|line| line.contains("promote") && line.contains(OBJECTIONS)), "{audit}");
    let daemon = Process::serve(data, &["ppo.enabled=false"]);
    let row = client::raw(daemon.address, &request("GET", "/v1/policies/2", &[], b"")).ok();
    assert_eq!((row["state"].as_str(), row["reason"].as_str()), (Some("live"), Some(remark.as_str())));
    told(data, &["policies", "activate", "1"]);
    drop(daemon);
    everywhere("policy@2 was live and ");
}

/// Goal: a daemon and a command say the same of version 0, which never leaves memory. Method: another version is activated in its
/// place.
#[test]
fn version_0_is_retained_to_a_daemon_and_to_a_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    publish_versions(data, 1);
    let daemon = Process::serve(data, &["ppo.enabled=false"]);
    for version in ["0", "1"] {
        told(data, &["policies", "activate", version]);
    }
    let of_daemon = client::raw(daemon.address, &request("GET", "/v1/policies/0", &[], b"")).ok();
    let of_command: Value = serde_json::from_str(&told(data, &["policies", "show", "0", "--json"])).expect("JSON");
    assert_eq!((&of_daemon["state"], &of_command["state"]), (&"retained".into(), &"retained".into()));
    let list = told(data, &["policies", "list"]);
    assert!(list.lines().any(|line| line.starts_with("policy@0    retained")), "{list}");
}
