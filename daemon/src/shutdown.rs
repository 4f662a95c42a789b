//! How the daemon is asked to stop, and in which order it does; and how to read its files again.
//!
//! 1. `/readyz` answers 503 and nothing new is admitted; connections are still accepted, so that load balancers see it.
//! 2. What runs gets `daemon.drain_s`; what is left is ended with an error event.
//! 3. The listener closes, connections end after their current answer.
//! 4. The learner and the scorer stop (an update that runs is abandoned, its claims go back), the log is flushed and closed.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long connections get to write out what was ended, and owner threads to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Two signals closer than this are one request: `timeout` and some supervisors signal the process and then its group.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// Every SIGHUP; those that come before the last one was taken are one.
pub fn hangups() -> Signal {
    signal(SignalKind::hangup()).expect("the runtime has signals enabled")
}

/// Resolves at the first SIGTERM or SIGINT. A later one ends the process at once, for people without patience.
pub async fn requested() {
    let mut terminate = signal(SignalKind::terminate()).expect("the runtime has signals enabled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("the runtime has signals enabled");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        let first = tokio::time::Instant::now();
        while first.elapsed() < ONE_REQUEST {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        tracing::warn!("asked twice: stopping at once");
        std::process::exit(1);
    });
}
