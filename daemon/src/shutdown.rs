//! How the daemon is asked to stop, and in which order it does; and how to read its files again.
//!
//! 1. `/readyz` answers 503 and nothing new is admitted; connections are still accepted, so that load balancers see it.
//! 2. What runs gets `daemon.drain_s`; what is left is ended with an error event.
//! 3. Connections end after their current answer: of the engine, of the scorer, to a client that reads slowly. They get what is
//!    left of `daemon.drain_s`. Until the last of them the listener stays open, and who comes new is told to go elsewhere.
//! 4. Beside them the learner stops (an update that runs is abandoned, its claims go back): it breaks off between two
//!    micro-batches, which may take long, so it too gets what is left of `daemon.drain_s`.
//! 5. What is left of the connections is cut, and with them goes to the log what nobody read; the scorer stops; the log is
//!    flushed and closed.
//! 6. What still blocks after that (a file that is being taken in, a model that is being loaded) is left behind: the process
//!    ends without a look at it ([`policy::threads::end_process`]).
//!
//! All of it ends within five seconds of `daemon.drain_s`: a supervisor that kills should wait a little longer than both.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long after the drain everything has ended: clients have read what was cut, owner threads have gone.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// When each part of a daemon that is asked to stop has ended. The parts share one [`GRACE`]: had each its own, the last would
/// end long after a supervisor has lost its patience.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    drained: Instant,
}

impl Deadline {
    /// From now on, with so long for what was admitted.
    pub(crate) fn after(drain: Duration) -> Deadline {
        Deadline { drained: Instant::now() + drain }
    }

    /// What is left of the drain.
    pub(crate) fn drain(self) -> Duration {
        self.left(0)
    }

    /// For the engine to end what is cut at the end of the drain.
    pub(crate) fn cut(self) -> Duration {
        self.left(2)
    }

    /// For clients to read their answers, and for the learner to break off.
    pub(crate) fn read(self) -> Duration {
        self.left(3)
    }

    /// For the scorer, which may be waiting for a judge that does not answer.
    pub(crate) fn judged(self) -> Duration {
        self.left(4).min(GRACE)
    }

    /// For the last traces.
    pub(crate) fn traced(self) -> Duration {
        self.left(5).min(GRACE)
    }

    /// What is left of the drain and of so many fifths of the grace.
    fn left(self, fifths: u32) -> Duration {
        (self.drained + GRACE * fifths / 5).saturating_duration_since(Instant::now())
    }
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
    use std::time::Duration;

    use super::{Deadline, GRACE};

    /// Goal: whoever needs its whole time leaves some to those after it, and all end within one grace. Method: a drain that is over.
    #[test]
    fn the_parts_share_one_grace() {
        let over = Deadline::after(Duration::ZERO);
        let parts = [over.drain(), over.cut(), over.read(), over.judged(), over.traced()];
        assert!(parts[0].is_zero() && parts[4] <= GRACE, "{parts:?}");
        assert!(parts.windows(2).all(|part| part[0] + Duration::from_millis(900) < part[1]), "{parts:?}");
        let long = Deadline::after(Duration::from_secs(60));
        assert!(long.read() > Duration::from_secs(60) && long.judged() == GRACE, "what ends early waits for nobody");
    }
}
