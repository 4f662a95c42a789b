//! A daemon in this process, for the demo, the bench and tests: real sockets, real owner threads, no signals.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use config::Config;
use tokio::sync::oneshot;

use super::{App, AppError, runtime};
use crate::shutdown;

/// A daemon that admits requests. Dropping it drains it.
pub struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), AppError>>>,
}

impl Running {
    /// Starts a daemon on a thread and a runtime of its own; returns when it is ready.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub fn start(config: Config) -> Result<Running, AppError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = mpsc::channel();
        let thread = thread::Builder::new().name("daemon".to_owned()).spawn(move || {
            let runtime = runtime()?;
            let ended = runtime.block_on(async {
                let app = App::bind(config).await?;
                let tell = move |address| {
                    // Nobody waits any more when the starter panicked; then the drop of `stop` ends the daemon.
                    let _ = ready.send(address);
                };
                let stop = async {
                    // An error means that the handle is gone, which asks for the same.
                    let _ = stopped.await;
                };
                app.run(tell, stop).await
            });
            // Dropped, it would wait without end for what blocks beside it. Its process goes on, unlike that of `honed serve`: so
            // what blocks gets a moment to let go of the folder.
            runtime.shutdown_timeout(shutdown::GRACE);
            ended
        })?;
        match address.recv() {
            Ok(address) => Ok(Running { address, stop: Some(stop), thread: Some(thread) }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(AppError::Panicked),
            },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDR`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drains, flushes, and waits for the end.
    ///
    /// # Errors
    /// When the daemon had failed.
    pub fn stop(mut self) -> Result<(), AppError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), AppError> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(AppError::Panicked),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the daemon ended badly");
        }
    }
}
