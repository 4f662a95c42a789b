//! Loading: every part that takes a while, in the order in which they need each other.

use std::path::Path;

use config::Config;
use policy::{PolicyVersion, engine::Engine};
use ppo::{Registry, RolloutLog, rollout_log::LogSettings};
use reward::Rules;

use super::{AppError, source};
use crate::http::Services;

/// Loads everything. Blocks; runs beside the HTTP runtime.
pub(super) fn services(config: &Config) -> Result<Services, AppError> {
    let settings = LogSettings {
        commit_ms: config.ppo.log.commit_ms,
        queue: config.ppo.log.queue,
        rescore_on_feedback: Rules::new(&config.reward).listens(),
    };
    let log = RolloutLog::open(Path::new(&config.daemon.data_dir), &settings)?;
    let sft = source::sft(config)?;
    let registry = Registry::open(log.clone(), &sft, config.ppo.keep_versions)?;
    let engine = engine(config, &registry)?;
    Ok(Services {
        engine,
        log,
        registry,
        scorer: None,
    })
}

/// Version 0 in memory, and the version that was live when the daemon last ran on top of it.
fn engine(config: &Config, registry: &Registry) -> Result<Engine, AppError> {
    let engine = Engine::start(&config.policy, &registry.path(PolicyVersion::SFT))?;
    let live = registry.live()?;
    if live.version != PolicyVersion::SFT {
        engine.load(live.version, &live.path)?;
        engine.promote(live.version)?;
        tracing::info!(version = %live.version, "serving the last promoted version");
    }
    Ok(engine)
}
