//! How the daemon is asked to stop, and in which order it does; and how to read its files again.
//!
//! 1. `/readyz` answers 503 and nothing new is admitted; connections are still accepted, so that load balancers see it.
//! 2. What runs gets `daemon.drain_s`; what is left is ended with an error event.
//! 3. The listener closes, connections end after their current answer: of the engine, of the scorer, to a client that reads
//!    slowly. They get what is left of `daemon.drain_s`.
//! 4. Beside them the learner stops (an update that runs is abandoned, its claims go back): it breaks off between two
//!    micro-batches, which may take long, so it too gets what is left of `daemon.drain_s`.
//! 5. The scorer stops, the log is flushed and closed.
//! 6. What still blocks after that (a file that is being taken in, a model that is being loaded) is left behind: the process
//!    ends without a look at it ([`policy::threads::end_process`]).

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long connections get at least to write out what was ended, and owner threads to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long connections and the learner get when the drain is to be over at `until`: what is left, and never less than
/// [`GRACE`].
pub(crate) fn patience_until(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(GRACE)
}

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
        policy::threads::end_process(1);
    });
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{GRACE, patience_until};

    #[test]
    fn patience_is_what_is_left_of_the_drain_and_never_less_than_the_grace() {
        let now = Instant::now();
        let left = patience_until(now + Duration::from_secs(30));
        assert!(left > GRACE && left <= Duration::from_secs(30), "{left:?}");
        assert_eq!((patience_until(now), patience_until(now + GRACE / 2)), (GRACE, GRACE));
    }
}
