//! Ctrl-C while something trains: it stops where weights are whole, and a step that has begun may be given up.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{cli::say, shutdown};

/// Raised by SIGINT or SIGTERM; a second signal ends the process at once.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on, on a thread of its own that lives as long as the process.
    pub(super) fn listen() -> std::io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let raised = Arc::clone(&interrupt.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                shutdown::requested().await;
                raised.store(true, Ordering::Release);
                say::tell("stopping at the last whole step");
                // Whoever signals again is heard as long as this runtime lives.
                std::future::pending::<()>().await;
            });
        })?;
        Ok(interrupt)
    }

    /// Whether to stop.
    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
