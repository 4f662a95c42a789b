//! Versions on disk without a learner.

use std::path::Path;

use policy::PolicyVersion;
use ppo::{
    Registry, RolloutLog,
    registry::Candidate,
    rollout_log::{LogSettings, VersionReport},
};

use super::model;

/// Publishes `n` versions of random weights on top of version 0, the last of them live, as a learner would have.
pub(crate) fn publish_versions(data_dir: &Path, n: u64) {
    let settings = LogSettings { commit_ms: 10, queue: 64, rescore_on_feedback: false };
    let log = RolloutLog::open(data_dir, &settings).expect("a log");
    let registry = Registry::open(log.clone(), &model::file(), 100).expect("a registry");
    for i in 1..=n {
        let version = PolicyVersion(i);
        model::write(&registry.path(version), 1 + i);
        let digest = policy::checkpoint::digest(&registry.path(version)).expect("a digest");
        let candidate = Candidate { version, parent: PolicyVersion(i - 1), digest, n_rollouts: 0 };
        registry.register(&candidate).expect("registered");
        registry.publish(version, Vec::new(), VersionReport::default()).expect("published");
    }
    log.close();
}
