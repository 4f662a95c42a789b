//! Loading: every part that takes a while, in the order in which they need each other.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use config::Config;
use policy::{PolicyVersion, checkpoint::intake::Intake, engine::Engine};
use ppo::{
    Learner, Registry, RolloutLog, ScoringPump,
    averages::Averages,
    import::{Accepts, ImportSetup, Importer},
    learner::LearnerSetup,
    publish::Switch,
    rollout_log::{LogSettings, Quarantine, Retention},
};
use reward::{Rules, Scorer};

use super::{
    AppError, pretraining, questions,
    source::{self, Judges},
    version_0,
};
use crate::{
    http::{Averaging, Importing, Learning, Services},
    lookout::Lookout,
    reward_seat::RewardSeat,
    watch,
};

/// Between two looks whether an average of weights is to be judged.
const AVERAGES_PAUSE: Duration = Duration::from_secs(1);

/// Loads everything. Blocks; runs beside the HTTP runtime.
///
/// The data directory is tied to its model once that has proved itself, and let go again when what else the first start needs
/// cannot be had: a corrected command starts.
pub(super) fn services(config: &Config) -> Result<Services, AppError> {
    let data_dir = Path::new(&config.daemon.data_dir);
    Registry::check_unclaimed(data_dir)?;
    let settings = LogSettings {
        commit_ms: config.ppo.log.commit_ms,
        queue: config.ppo.log.queue,
        rescore_on_feedback: Rules::new(&config.reward).listens(),
    };
    let log = RolloutLog::open_with(data_dir, &settings, quarantine(&config.ppo.log)?)?;
    let sft = source::sft(config)?;
    let (adoption, engine) = version_0::load(config, &log, &sft)?;
    let judges = source::judges(config, engine.vocabulary().digest(), &sft)?;
    let scorer = scorer(config, &judges)?;
    let is_first = adoption.is_first();
    let registry = adoption.open()?.keeping_bytes(bytes_kept(&config.ppo));
    let loaded = learning_services(config, &sft, &judges, Base { engine, log, registry: registry.clone(), scorer });
    if loaded.is_err()
        && is_first
        && let Err(error) = registry.withdraw()
    {
        tracing::warn!(%error, "the data directory stays with a model that did not start");
    }
    loaded
}

/// What stands before anything is learnt.
struct Base {
    /// With version 0 in memory.
    engine: Engine,
    log: RolloutLog,
    registry: Registry,
    scorer: Option<Scorer>,
}

fn learning_services(config: &Config, sft: &Path, judges: &Judges, base: Base) -> Result<Services, AppError> {
    let Base { engine, log, registry, scorer } = base;
    serve_live(&engine, &registry)?;
    let keeper = registry.clone();
    engine.on_freed(move |residents| keeper.keep_house(residents));
    if config.ppo.log.scrub_pii == "redact" {
        // Before anybody is answered.
        log.redact_with(engine.vocabulary())?;
    }
    if let Some(retention) = Retention::of(&config.ppo) {
        log.keep(retention)?;
    }
    let seat = seat(config, judges, &engine, sft, &log)?;
    let learning = match &scorer {
        Some(scorer) if config.ppo.enabled => Some(learning(config, judges, scorer, &log, &registry, &engine)?),
        _ => None,
    };
    let switch = Arc::new(Switch::new(engine.clone(), registry.clone(), Arc::default()));
    let mut services = Services { engine, log, registry, scorer, seat, learning, importing: None, switch };
    services.importing = importing(config, &services)?;
    Ok(services)
}

/// What takes model files in, where a folder is named for them.
fn importing(config: &Config, services: &Services) -> Result<Option<Importing>, AppError> {
    let daemon = &config.daemon;
    if daemon.import_dir.is_empty() {
        return Ok(None);
    }
    let intake = Intake::new(Path::new(&daemon.import_dir), daemon.import_bytes_max);
    let intake = intake.map_err(|error| AppError::NotAFile {
        key: "daemon.import_dir",
        path: daemon.import_dir.clone(),
        reason: error.to_string(),
    })?;
    let accepts = match (&services.learning, config.ppo.lora_rank) {
        (None, _) => Accepts::Both,
        (Some(_), 0) => Accepts::Whole,
        (Some(_), _) => Accepts::Adapters,
    };
    let (log, registry, engine) = (services.log.clone(), services.registry.clone(), services.engine.clone());
    let importer = Importer::new(ImportSetup {
        questions: questions::of_file(&config.ppo, &engine)?,
        log,
        registry,
        engine,
        intake,
        accepts,
        loss_max: daemon.import_loss_max,
        gate: config.ppo.clone(),
        scorer: services.scorer.clone(),
        refuses_unjudged: daemon.import_unjudged == "refuse",
    });
    let pause = Duration::from_millis(daemon.import_poll_ms);
    let promote = (daemon.import_watch == "promote").then(|| services.activator());
    let watch = match daemon.import_watch.as_str() {
        "off" => None,
        _ => Some(watch::start(importer.clone(), pause, promote)?),
    };
    Ok(Some(Importing::new(importer, watch)))
}

/// Users whose exchanges never train.
fn quarantine(config: &config::PpoLog) -> Result<Quarantine, AppError> {
    let path = &config.quarantine_file;
    if path.is_empty() {
        return Ok(Quarantine::default());
    }
    let key = "ppo.log.quarantine_file";
    source::check_file(key, path)?;
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| AppError::NotAFile { key, path: path.clone(), reason: error.to_string() })?;
    Ok(Quarantine::parse(&text))
}

/// `ppo.keep_versions_mib`, bytes.
pub(super) fn bytes_kept(config: &config::Ppo) -> u64 {
    match config.keep_versions_mib {
        0 => u64::MAX,
        mib => mib << 20,
    }
}

/// Beside version 0, the version that was live when the daemon last ran.
fn serve_live(engine: &Engine, registry: &Registry) -> Result<(), AppError> {
    let live = registry.live()?;
    if live.version != PolicyVersion::SFT {
        let unloadable = |source| AppError::Live { version: live.version, source };
        engine.load(live.version, &live.path).map_err(unloadable)?;
        engine.promote(live.version)?;
        tracing::info!(version = %live.version, "serving the last promoted version");
    }
    Ok(())
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
    let texts = pretraining::texts(&config.ppo, &engine.vocabulary())?;
    let setup = LearnerSetup {
        config: config.ppo.clone(),
        log: log.clone(),
        registry: registry.clone(),
        engine: engine.clone(),
        value_start: judges.value_start()?,
        pretraining: texts.learnt,
        measured_texts: texts.measured,
        scorer: Some(scorer.clone()),
        questions: questions::of_file(&config.ppo, engine)?,
    };
    let averages = Averages::new(&setup)?;
    let learner = Learner::start(setup).map_err(|error| AppError::Learner(error.to_string()))?;
    let averaging = averages.map(averaging).transpose()?;
    Ok(Learning::new(learner, pump, averaging))
}

fn averaging(mut averages: Averages) -> std::io::Result<Averaging> {
    let board = averages.board();
    let lookout = Lookout::start("averages", AVERAGES_PAUSE, move || averages.look())?;
    Ok(Averaging { board, lookout: Mutex::new(Some(lookout)) })
}
