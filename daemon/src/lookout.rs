//! A thread that looks at something from time to time, and may be busy for long with what it finds.

use std::{convert::Infallible, thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use policy::threads;

use crate::shutdown;

/// Handle of the thread; dropped, it stops after the look at hand, which is not waited for when that takes long.
pub(crate) struct Lookout {
    name: &'static str,
    stop: Option<Sender<Infallible>>,
    /// Disconnected once the thread has ended, which tells with a deadline what a join tells without one.
    ended: Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
    /// For the look at hand, when it ends.
    patience: Duration,
}

impl Lookout {
    /// Looks every `pause`, at the priority of requests.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(
        name: &'static str,
        pause: Duration,
        mut look: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Lookout> {
        let (stop, stopped) = bounded::<Infallible>(0);
        let (alive, ended) = bounded(0);
        let run = move || {
            let _alive: Sender<Infallible> = alive;
            threads::lower_priority(threads::NICE_REQUESTS);
            loop {
                look();
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Lookout { name, stop: Some(stop), ended, thread: Some(thread), patience: shutdown::GRACE })
    }

    /// Ends it after the look at hand, or leaves that behind when `patience` is over.
    pub(crate) fn stop(mut self, patience: Duration) {
        self.patience = patience;
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.stop = None;
        if self.ended.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            let thread = self.name;
            tracing::warn!(thread, "what it has at hand is left behind; the next start begins it anew");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(thread = self.name, "it panicked");
        }
    }
}
