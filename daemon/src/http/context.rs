//! What every handler sees: the parts of the daemon, its limits, and whether it admits requests.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use policy::{
    PolicyVersion,
    engine::{Engine, Target},
};
use ppo::{Learner, Registry, RolloutLog, ScoringPump, averages::AverageBoard, import::Importer, publish::Switch};
use reward::Scorer;

use super::{auth::KeyRing, error::ApiError, hosts::AllowedHosts, limits::Limits, models, texts::Texts};
use crate::{
    activation::Activator,
    lookout::Lookout,
    reward_seat::RewardSeat,
    telemetry::{Metrics, traces::Tracer},
};

/// The header that every response carries.
pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-honed-version");

/// The parts that take a while to load. Handlers get them once they are there, and a 503 before.
pub(crate) struct Services {
    /// What answers.
    pub(crate) engine: Engine,
    /// What remembers.
    pub(crate) log: RolloutLog,
    /// Versions on disk.
    pub(crate) registry: Registry,
    /// What learns; `None` when the daemon serves only.
    pub(crate) learning: Option<Learning>,
    /// What judges; `None` when nothing is configured that could.
    pub(crate) scorer: Option<Scorer>,
    /// Where another reward model takes its place; `None` when none judges.
    pub(crate) seat: Option<RewardSeat>,
    /// What takes files in; `None` without `daemon.import_dir`.
    pub(crate) importing: Option<Importing>,
    /// Changes who serves, and counts it, where there is no learner, who has one of its own.
    pub(crate) switch: Arc<Switch>,
}

impl Services {
    /// What makes versions live.
    pub(crate) fn activator(&self) -> Activator {
        let learner = self.learning.as_ref().map(|learning| learning.learner.clone());
        let switch = Arc::clone(&self.switch);
        Activator {
            engine: self.engine.clone(),
            registry: self.registry.clone(),
            log: self.log.clone(),
            learner,
            switch,
        }
    }
}

/// What takes model files in from outside.
pub(crate) struct Importing {
    /// For whoever names one.
    pub(crate) importer: Importer,
    watch: Mutex<Option<Lookout>>,
}

impl Importing {
    /// With a watch of the folder, where it is watched.
    pub(crate) fn new(importer: Importer, watch: Option<Lookout>) -> Importing {
        Importing { importer, watch: Mutex::new(watch) }
    }

    /// Stops the watch after the file at hand, if that ends within `patience`.
    pub(crate) fn stop(&self, patience: Duration) {
        if let Some(watch) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watch.stop(patience);
        }
    }
}

/// What learns, what brings it its scores, and what has the averages of its weights judged.
pub(crate) struct Learning {
    /// Turns scored rollouts into versions.
    pub(crate) learner: Learner,
    pump: Mutex<Option<ScoringPump>>,
    averaging: Option<Averaging>,
}

/// What has averages of weights judged.
pub(crate) struct Averaging {
    /// What came of them.
    pub(crate) board: Arc<AverageBoard>,
    /// Looks whether one has its turn.
    pub(crate) lookout: Mutex<Option<Lookout>>,
}

impl Learning {
    /// All of them run already.
    pub(crate) fn new(learner: Learner, pump: ScoringPump, averaging: Option<Averaging>) -> Learning {
        Learning { learner, pump: Mutex::new(Some(pump)), averaging }
    }

    /// What came of the averages of weights; `None` where none is judged.
    pub(crate) fn averages(&self) -> Option<&AverageBoard> {
        self.averaging.as_ref().map(|averaging| &*averaging.board)
    }

    /// Judges no further average, and breaks off what is judged, if that ends within `patience`.
    pub(crate) fn stop_averaging(&self, patience: Duration) {
        let lookout = self.averaging.as_ref().map(|averaging| &averaging.lookout);
        let lookout = lookout.and_then(|lookout| lookout.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(lookout) = lookout {
            lookout.stop(patience);
        }
    }

    /// Stops the pump, if the judge that it waits for lets it go within `patience`.
    pub(crate) fn stop_pump(&self, patience: Duration) {
        let pump = self.pump.lock().unwrap_or_else(PoisonError::into_inner).take();
        if pump.is_some_and(|pump| !pump.stop(patience)) {
            tracing::warn!("a judge did not answer in time; what it was asked is asked again at the next start");
        }
    }
}

/// What is there before anything is loaded.
pub(crate) struct ContextSetup {
    /// Name of the live policy.
    pub(crate) served_name: String,
    /// Limits of one request.
    pub(crate) limits: Limits,
    /// All configured keys.
    pub(crate) keys: KeyRing,
    /// Under which names the daemon answers.
    pub(crate) allowed_hosts: AllowedHosts,
    /// All metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// Where traces go; `None` where no collector is configured.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// Shared by all handlers.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

struct Inner {
    served_name: String,
    limits: Limits,
    keys: RwLock<Arc<KeyRing>>,
    allowed_hosts: AllowedHosts,
    metrics: Arc<Metrics>,
    tracer: Option<Arc<Tracer>>,
    services: OnceLock<Arc<Services>>,
    texts: Texts,
    draining: AtomicBool,
    started_s: u64,
}

impl Context {
    /// A context that is loading.
    pub(crate) fn new(setup: ContextSetup) -> Context {
        let ContextSetup { served_name, limits, keys, allowed_hosts, metrics, tracer } = setup;
        Context(Arc::new(Inner {
            served_name,
            limits,
            keys: RwLock::new(Arc::new(keys)),
            allowed_hosts,
            metrics,
            tracer,
            services: OnceLock::new(),
            texts: Texts::new(),
            draining: AtomicBool::new(false),
            started_s: super::prompts::now_ms() / 1000,
        }))
    }

    /// Loading is over.
    pub(crate) fn set_services(&self, services: Services) {
        let first = self.0.services.set(Arc::new(services)).is_ok();
        assert!(first, "services are loaded once");
    }

    /// For requests that bring work: not while loading, not while draining.
    pub(crate) fn admit(&self) -> Result<Arc<Services>, ApiError> {
        match self.0.draining.load(Ordering::Acquire) {
            true => Err(ApiError::ShuttingDown),
            false => self.services(),
        }
    }

    /// For requests that only look: also while draining.
    pub(crate) fn services(&self) -> Result<Arc<Services>, ApiError> {
        self.0.services.get().cloned().ok_or(ApiError::Unavailable("the model is loading"))
    }

    /// From now on nothing new is admitted.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// When the daemon started, seconds since the Unix epoch.
    pub(crate) fn started_s(&self) -> u64 {
        self.0.started_s
    }

    /// Limits of one request.
    pub(crate) fn limits(&self) -> Limits {
        self.0.limits
    }

    /// All configured keys.
    pub(crate) fn keys(&self) -> Arc<KeyRing> {
        // Whoever panicked had not changed it: a store is one assignment.
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other keys from the next request on.
    pub(crate) fn set_keys(&self, keys: KeyRing) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Under which names the daemon answers.
    pub(crate) fn allowed_hosts(&self) -> &AllowedHosts {
        &self.0.allowed_hosts
    }

    /// All metrics.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// What is computed on texts beside the engine.
    pub(crate) fn texts(&self) -> &Texts {
        &self.0.texts
    }

    /// Where traces go.
    pub(crate) fn tracer(&self) -> Option<&Arc<Tracer>> {
        self.0.tracer.as_ref()
    }

    /// Name of the live policy.
    pub(crate) fn served_name(&self) -> &str {
        &self.0.served_name
    }

    /// The weights that a `model` field names: `policy@N`, `sft`, or the live ones by their served name or by nothing.
    pub(crate) fn target(&self, model: Option<&str>) -> Result<Target, ApiError> {
        let name = model.unwrap_or("");
        if name.is_empty() || name == "policy" || name == self.0.served_name {
            return Ok(Target::Live);
        }
        if name == "sft" {
            return Ok(Target::Version(PolicyVersion::SFT));
        }
        let number = name.strip_prefix("policy@").filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let version = number.and_then(|number| number.parse().ok()).map(PolicyVersion);
        version.map(Target::Version).ok_or_else(|| {
            let named: String = name.chars().take(128).collect();
            match models::is_reward(name) {
                true => ApiError::JudgesOnly(named),
                false => ApiError::UnknownModel(named),
            }
        })
    }
}

/// Stamps a response with the weights behind it.
pub(crate) fn with_version(mut response: Response, version: PolicyVersion) -> Response {
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from(version.0));
    response
}
