//! How the owner hears that somebody else has changed who serves, or should.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Breaks off the update at hand and calls the owner. Clones ring the same bell.
#[derive(Clone)]
pub(super) struct Bell {
    interrupt: Arc<AtomicBool>,
    calls: Sender<()>,
}

impl Bell {
    /// The bell, and where the owner hears it. `interrupt` is the flag that updates look at.
    pub(super) fn new(interrupt: Arc<AtomicBool>) -> (Bell, Receiver<()>) {
        let (calls, heard) = bounded(1);
        (Bell { interrupt, calls }, heard)
    }

    /// The owner takes the flag down once it has seen to it.
    pub(super) fn ring(&self) {
        // Before the call: whoever obeys it takes the flag down. A full channel is a call that is still to be heard.
        self.interrupt.store(true, Ordering::Release);
        let _ = self.calls.try_send(());
    }
}
