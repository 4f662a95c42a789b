//! Loading: every part that takes a while, in the order in which they need each other.

use std::{path::Path, sync::Mutex};

use config::Config;
use policy::{PolicyVersion, engine::Engine};
use ppo::{Learner, Registry, RolloutLog, ScoringPump, learner::LearnerSetup, rollout_log::LogSettings};
use reward::{Rules, Scorer};

use super::{
    AppError, pretraining,
    source::{self, Judges},
};
use crate::http::{Learning, Services};

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
    let judges = source::judges(config, engine.vocabulary().digest(), &sft)?;
    let scorer = scorer(config, &judges)?;
    let learning = match &scorer {
        Some(scorer) if config.ppo.enabled => Some(learning(config, &judges, scorer, &log, &registry, &engine)?),
        _ => None,
    };
    Ok(Services { engine, log, registry, scorer, learning, switching: Mutex::default() })
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

fn scorer(config: &Config, judges: &Judges) -> Result<Option<Scorer>, AppError> {
    let judge = match judges {
        Judges::Model(_, judge) => Some(judge.clone()),
        Judges::Others => None,
        Judges::Nobody => return Ok(None),
    };
    Ok(Some(Scorer::start(&config.reward, judge, config.ppo.threads)?))
}

fn learning(
    config: &Config,
    judges: &Judges,
    scorer: &Scorer,
    log: &RolloutLog,
    registry: &Registry,
    engine: &Engine,
) -> Result<Learning, AppError> {
    let pump = ScoringPump::start(log.clone(), scorer.clone(), engine.vocabulary(), &config.reward)?;
    let setup = LearnerSetup {
        config: config.ppo.clone(),
        log: log.clone(),
        registry: registry.clone(),
        engine: engine.clone(),
        value_start: judges.value_start()?,
        pretraining: pretraining::texts(&config.ppo, &engine.vocabulary())?,
    };
    let learner = Learner::start(setup).map_err(|error| AppError::Learner(error.to_string()))?;
    Ok(Learning::new(learner, pump))
}
