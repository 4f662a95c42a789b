//! Loading: every part that takes a while, in the order in which they need each other.

use std::path::Path;

use config::Config;
use policy::{PolicyVersion, engine::Engine};
use ppo::{Learner, Registry, RolloutLog, ScoringPump, learner::LearnerSetup, rollout_log::LogSettings};
use reward::{Rules, Scorer};

use super::{
    AppError, pretraining,
    source::{self, Judges},
};
use crate::{
    http::{Learning, Services},
    reward_seat::RewardSeat,
};

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
    let registry = registry.keeping_bytes(bytes_kept(&config.ppo));
    let engine = engine(config, &registry)?;
    let judges = source::judges(config, engine.vocabulary().digest(), &sft)?;
    let scorer = scorer(config, &judges)?;
    let seat = seat(config, &judges, &engine, &sft, &log)?;
    let learning = match &scorer {
        Some(scorer) if config.ppo.enabled => Some(learning(config, &judges, scorer, &log, &registry, &engine)?),
        _ => None,
    };
    Ok(Services { engine, log, registry, scorer, seat, learning })
}

/// `ppo.keep_versions_mib`, bytes.
pub(super) fn bytes_kept(config: &config::Ppo) -> u64 {
    match config.keep_versions_mib {
        0 => u64::MAX,
        mib => mib << 20,
    }
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

/// The seat of the reward model, where one judges. The log is told who sits: what another one judged and nobody has claimed since
/// is judged again, as after a change while the daemon runs.
fn seat(
    config: &Config,
    judges: &Judges,
    engine: &Engine,
    sft: &Path,
    log: &RolloutLog,
) -> Result<Option<RewardSeat>, AppError> {
    let Judges::Model(model, judge) = judges else {
        return Ok(None);
    };
    let n_rejudged = log.seat_reward_model(&judge.version)?;
    if n_rejudged > 0 {
        tracing::info!(
            n_rejudged,
            version = judge.version,
            "rollouts that another reward model judged are judged again"
        );
    }
    let vocabulary = engine.vocabulary();
    Ok(Some(RewardSeat::new(config, vocabulary.digest(), sft, model.clone(), &judge.version)))
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
