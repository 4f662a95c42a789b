//! The watch's thread: a look at the live version once a second, and what it ends in.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::{Breach, Watch, latency::LatencyWatch};
use crate::{
    learner::rollback::{Rollback, is_outdated},
    publish::Switched,
};

/// Pause between two looks while nothing is about to be claimed.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause at most between two attempts to have the live version serve, where its pointer had failed.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Handle of the watch's thread; dropping it ends the thread.
pub(in crate::learner) struct WatchKeeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WatchKeeper {
    /// Starts it. Where no service is to be watched, it still sees to it that who is live serves.
    pub(in crate::learner) fn start(watch: Arc<Watch>, rollback: Arc<Rollback>) -> std::io::Result<WatchKeeper> {
        let (stop, stopped) = bounded(0);
        let thread =
            std::thread::Builder::new().name("watch".to_string()).spawn(move || keep(&watch, &rollback, &stopped))?;
        Ok(WatchKeeper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for WatchKeeper {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watch over the live version panicked");
        }
    }
}

/// When something that came to nothing is tried again: ever more rarely.
struct Pace {
    due: Instant,
    pause: Duration,
}

impl Pace {
    fn from(now: Instant) -> Pace {
        Pace { due: now, pause: PAUSE }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    fn tried(&mut self, now: Instant, is_done: bool) {
        self.pause = if is_done { PAUSE } else { (2 * self.pause).min(PAUSE_MAX) };
        self.due = now + self.pause;
    }
}

fn keep(watch: &Watch, rollback: &Rollback, stopped: &Receiver<()>) {
    let (mut following, mut rolling_back) = (Pace::from(Instant::now()), Pace::from(Instant::now()));
    let mut last = None;
    let has_ended = || rollback.switch.is_shutting_down();
    let goes_on = || stopped.try_recv() == Err(TryRecvError::Empty) && !has_ended();
    let mut latency = LatencyWatch::over(watch);
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) && !has_ended() {
        let breach = rollback.pending().or_else(|| look(watch, &mut latency, &goes_on));
        let wanted = breach.as_ref().map(|breach| (breach.live, breach.good));
        if last != wanted {
            (last, rolling_back) = (wanted, Pace::from(Instant::now()));
        }
        // Each attempt breaks off what the owner does, and may have it read whole files.
        if let Some(breach) = breach.filter(|_| rolling_back.is_due(Instant::now())) {
            let switched = rollback.at_once(&breach);
            rolling_back.tried(Instant::now(), matches!(switched, Ok(Switched::Done)));
            if let Err(error) = switched
                && !is_outdated(&error)
                && !has_ended()
            {
                tracing::error!(%error, "the rollback failed and will be tried again");
            }
        }
        // Each attempt may read a whole file, and wait for memory.
        if following.is_due(Instant::now()) {
            let is_done = rollback.switch.keep_up();
            following.tried(Instant::now(), is_done);
        }
    }
}

fn look(watch: &Watch, latency: &mut LatencyWatch<'_>, goes_on: &dyn Fn() -> bool) -> Option<Breach> {
    let breach = watch.look().and_then(|breach| match breach {
        Some(breach) => Ok(Some(breach)),
        None => latency.look(goes_on),
    });
    breach.unwrap_or_else(|error| {
        tracing::warn!(%error, "the watch could not look at the live version and will try again");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what cannot be done is tried ever more rarely, and the next that can be is not kept waiting. Method: the clock by hand.
    #[test]
    fn what_fails_is_tried_ever_more_rarely() {
        let mut now = Instant::now();
        let mut pace = Pace::from(now);
        assert!(pace.is_due(now));
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            pace.tried(now, false);
            now += Duration::from_secs(seconds);
            assert!(pace.is_due(now) && !pace.is_due(now - Duration::from_millis(1)), "{seconds}");
        }
        pace.tried(now, true);
        assert!(pace.is_due(now + PAUSE));
    }
}
