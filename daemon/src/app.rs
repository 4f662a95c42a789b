//! The life of the daemon, each stage a type: [`Config`] → [`App`] (address taken, keys read) → running → drained.
//!
//! The listener answers probes from the first moment, with 503 until the model is loaded: orchestrators see a daemon that
//! starts, not one that is dead. What takes long (hashing and loading a model) happens beside the runtime.
//!
//! ```text
//! bind ──► serve probes ──► load: log, registry, engine, scorer, learner ──► ready ──► drain ──► closed
//! ```

mod error;
mod load;
mod pretraining;
mod questions;
mod reloader;
mod running;
mod source;
mod version_0;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use config::Config;
use policy::{Vocabulary, sequence_batch::Sequence};
use ppo::learner::ValueStart;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use self::{error::AppError, reloader::Reloader, running::Running};
use crate::{
    http::{self, AllowedHosts, ConnectionLimits, Context, ContextSetup, Limits, Services, Stop},
    shutdown::Deadline,
    telemetry::{Metrics, traces::Tracer},
};

/// Threads of the HTTP runtime: it formats tokens and waits; llama.cpp needs the cores.
const RUNTIME_THREADS: usize = 2;

/// The runtime that an [`App`] wants.
///
/// # Errors
/// When the operating system gives no threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).thread_name("http").enable_all().build()
}

/// A daemon that has its address and does not answer yet.
pub struct App {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    context: Context,
}

impl App {
    /// Takes the address and reads the key files.
    ///
    /// # Errors
    /// When the address is taken or malformed, or a key file cannot be used.
    pub async fn bind(config: Config) -> Result<App, AppError> {
        arm(&config.daemon.failpoints)?;
        let listen = &config.daemon.listen;
        let taken = |source| AppError::Listen { address: listen.clone(), source };
        let listener = TcpListener::bind(listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let keys = reloader::keys(&config)?;
        if answers_everybody(address, keys.api.is_empty()) {
            tracing::warn!("answers everybody who reaches {address}; set daemon.api_keys_file or HONED_API_KEYS");
        }
        let hosts = AllowedHosts::new(&config.daemon.allowed_hosts, address, keys.api.is_empty());
        let limits = Limits::new(&config.daemon);
        let served_name = config.policy.served_name.clone();
        let metrics = Arc::new(Metrics::new());
        let tracer = Tracer::start(&config.daemon, &metrics.traces)?.map(Arc::new);
        let setup = ContextSetup { served_name, limits, keys, allowed_hosts: hosts, metrics, tracer };
        let context = Context::new(setup);
        Ok(App { config, listener, address, context })
    }

    /// Where it listens; with port 0 in the configuration, the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads again, while the daemon runs, what may change.
    pub fn reloader(&self) -> Reloader {
        Reloader::new(self.config.clone(), self.context.clone())
    }

    /// Serves until `stop` resolves, then drains. `ready` is called once requests are admitted.
    ///
    /// # Errors
    /// When a part cannot be loaded; the reason is for the operator.
    pub async fn run(self, ready: impl FnOnce(SocketAddr), stop: impl Future<Output = ()>) -> Result<(), AppError> {
        let App { config, listener, address, context } = self;
        let (daemon, parallel) = (config.daemon.clone(), config.policy.parallel);
        let limits = ConnectionLimits::new(&daemon);
        let router = http::router(context.clone(), &daemon.cors_origins);
        let stopping = watch::Sender::new(Stop::No);
        let server = tokio::spawn(http::serve(listener, router, limits, stopping.subscribe()));
        let mut stop = std::pin::pin!(stop);
        let loading = tokio::task::spawn_blocking(move || load_and_announce(&config, address));
        let services = tokio::select! {
            loaded = loading => loaded.map_err(|_| AppError::Panicked)??,
            // What loads cannot be interrupted; nothing was promised to anybody yet.
            () = &mut stop => return Ok(()),
        };
        context.metrics().engine.set_cache_config(parallel, services.engine.context_tokens());
        context.set_services(services);
        ready(address);
        stop.await;
        tracing::info!(drain_s = daemon.drain_s, "draining");
        drain(&context, Deadline::after(Duration::from_secs(daemon.drain_s)), &stopping, server).await;
        Ok(())
    }
}

/// Whether other machines may be answered, and need no key for it.
fn answers_everybody(address: SocketAddr, is_open: bool) -> bool {
    is_open && !address.ip().to_canonical().is_loopback()
}

/// Loads every part, and then leaves word in the data directory where its daemon is. Blocks.
fn load_and_announce(config: &Config, address: SocketAddr) -> Result<Services, AppError> {
    let services = load::services(config)?;
    // Not before: it would be answered 503, and a missing address tells a command more.
    if let Err(error) = services.log.announce(address) {
        tracing::warn!(%error, "commands will not find this daemon by its data directory; it serves all the same");
    }
    Ok(services)
}

/// Arms the failpoints, if there are any. They are for tests: who runs a release should not find out what they do.
fn arm(failpoints: &str) -> Result<(), AppError> {
    if failpoints.is_empty() {
        return Ok(());
    }
    if !cfg!(debug_assertions) {
        return Err(AppError::Failpoints("this is a release build".to_owned()));
    }
    policy::failpoint::arm(failpoints).map_err(AppError::Failpoints)?;
    tracing::warn!(failpoints, "FAILPOINTS ARE ARMED: this process will fail where they say");
    Ok(())
}

/// The file of version 0: the configured one, or the built-in one, written into the data directory.
///
/// # Errors
/// When the built-in one cannot be written.
pub(crate) fn sft_file(config: &Config) -> Result<std::path::PathBuf, AppError> {
    source::sft(config)
}

/// `ppo.keep_versions_mib`, bytes.
pub(crate) fn bytes_kept(config: &config::Ppo) -> u64 {
    load::bytes_kept(config)
}

/// Where the value model starts of a policy with this vocabulary.
///
/// # Errors
/// When the reward model cannot be read or does not fit.
pub(crate) fn value_start(
    config: &Config,
    vocabulary_digest: &str,
    sft: &std::path::Path,
) -> Result<ValueStart, AppError> {
    source::judges(config, vocabulary_digest, sft)?.value_start()
}

/// The texts of `ppo.ptx`, without what the gate measures on.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn pretraining(config: &config::Ppo, vocabulary: &Vocabulary) -> Result<Arc<[Sequence]>, AppError> {
    if config.ptx == "off" {
        return Ok(Arc::default());
    }
    Ok(pretraining::texts(config, vocabulary)?.learnt)
}

/// Every part of a daemon but its HTTP, for work that brings its own prompts. Blocks while it loads; end it with [`close`].
///
/// # Errors
/// When a part cannot be loaded.
pub(crate) fn services(config: &Config) -> Result<Services, AppError> {
    load::services(config)
}

/// Admits nothing new, lets what runs finish, ends the rest, and closes every part in the order of [`shutdown`](crate::shutdown).
async fn drain(context: &Context, deadline: Deadline, stopping: &watch::Sender<Stop>, server: JoinHandle<()>) {
    context.drain();
    let Ok(services) = context.services() else {
        return;
    };
    let engine = services.engine.clone();
    let drained = tokio::task::spawn_blocking(move || engine.shutdown(deadline.drain()));
    // A step of a large model may outlast the rest of the time; then its responses are cut with their connections.
    let drained = tokio::time::timeout(deadline.cut(), drained).await;
    if !matches!(drained, Ok(Ok(true))) {
        tracing::warn!("some responses were cut at the end of the drain");
    }
    stopping.send_replace(Stop::Finish);
    let learning = services.clone();
    let learning = tokio::task::spawn_blocking(move || end_learning(&learning, deadline));
    // Not every admitted request is the engine's: scores are judged elsewhere, and a stream is over once it is read. None of
    // them needs what learns, which would have nothing left of the drain if it were told only after the last of them.
    let (_, learning) = tokio::join!(finish(stopping, server, deadline), learning);
    let closed = tokio::task::spawn_blocking(move || close_scores_and_log(&services, deadline)).await;
    if learning.is_err() || closed.is_err() {
        tracing::error!("a part panicked while it closed");
    }
    if let Some(tracer) = context.tracer().cloned() {
        let sent = tokio::task::spawn_blocking(move || tracer.shutdown(deadline.traced())).await;
        if !sent.unwrap_or(false) {
            tracing::warn!("the collector did not take the last traces in time");
        }
    }
    tracing::info!("stopped");
}

/// For connections that were cut to let go of what they hold.
const CUT: Duration = Duration::from_millis(500);

/// Waits for the connections, and cuts those that do not end: what they hold belongs in the log, which is closed next.
async fn finish(stopping: &watch::Sender<Stop>, mut server: JoinHandle<()>, deadline: Deadline) {
    if tokio::time::timeout(deadline.read(), &mut server).await.is_err() {
        tracing::warn!("some connections did not end in time and were cut");
        stopping.send_replace(Stop::Cut);
        // It only drops them; one whose answer is being computed at this moment ends when it is.
        let _ = tokio::time::timeout(CUT, server).await;
    }
}

/// Owner threads end; the log last, because all others write to it.
pub(crate) fn close(services: &Services, deadline: Deadline) {
    end_learning(services, deadline);
    close_scores_and_log(services, deadline);
}

/// What changes versions ends: the learner, what judges averages of its weights, and the watch of a folder.
fn end_learning(services: &Services, deadline: Deadline) {
    let patience = deadline.read();
    if let Some(learning) = &services.learning
        && !learning.learner.shutdown(patience)
    {
        let waited_s = patience.as_secs();
        tracing::warn!(
            waited_s,
            "the learner did not end in time (what was left of daemon.drain_s, or a few seconds); its claims go back at the next start"
        );
    }
    // After the learner, which would be asked too late behind a file that takes long; that one is taken in again anyway.
    if let Some(learning) = &services.learning {
        learning.stop_averaging(deadline.read());
    }
    if let Some(importing) = &services.importing {
        importing.stop(deadline.read());
    }
}

/// What answers without the learner ends: the scorer, then its pump, then the log.
fn close_scores_and_log(services: &Services, deadline: Deadline) {
    if let Some(scorer) = &services.scorer {
        scorer.shutdown(deadline.judged());
    }
    if let Some(learning) = &services.learning {
        learning.stop_pump(deadline.traced());
    }
    services.log.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_answered_without_keys_beyond_this_machine() {
        let open = |address: &str| answers_everybody(address.parse().expect("an address"), true);
        assert!(open("0.0.0.0:80") && open("[::]:80") && open("10.0.0.7:80") && open("[::ffff:10.0.0.7]:80"));
        assert!(!open("127.0.0.1:80") && !open("127.1.2.3:80") && !open("[::1]:80") && !open("[::ffff:127.0.0.1]:80"));
        assert!(!answers_everybody("0.0.0.0:80".parse().expect("an address"), false));
    }
}
