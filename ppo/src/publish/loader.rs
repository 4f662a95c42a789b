//! Who loads versions into the engine.
//!
//! On Linux a new thread inherits the priority of the thread that starts it, and without privilege it can never raise it
//! again. A resident that was loaded from the learner's thread would serve at nice 19 for the rest of its life. So loading
//! has a thread of its own, started before the learner lowers itself; it sleeps except while it loads.

use std::{
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use policy::{
    PolicyVersion,
    engine::{Engine, EngineError},
};

/// [`Engine::load`] or [`Engine::load_to_serve`].
pub(super) type How = fn(&Engine, PolicyVersion, &Path) -> Result<(), EngineError>;

struct Load {
    how: How,
    version: PolicyVersion,
    path: PathBuf,
    reply: Sender<Result<(), EngineError>>,
}

/// Handle of the loading thread; dropping it ends the thread.
pub struct Loader {
    loads: Option<Sender<Load>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts the thread at the caller's priority, which is what residents will serve at.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(engine: Engine) -> std::io::Result<Loader> {
        let (loads, received): (Sender<Load>, Receiver<Load>) = bounded(1);
        let thread = std::thread::Builder::new().name("version-loader".to_string()).spawn(move || {
            for Load { how, version, path, reply } in received {
                // The one who waits below never gives up before this.
                let _ = reply.send(how(&engine, version, &path));
            }
        })?;
        Ok(Loader { loads: Some(loads), thread: Some(thread) })
    }

    /// Loads a version; blocks until its canary has passed.
    ///
    /// # Errors
    /// What [`Engine::load`] says.
    pub(super) fn load(&self, how: How, version: PolicyVersion, path: PathBuf) -> Result<(), EngineError> {
        let (reply, answer) = bounded(1);
        let load = Load { how, version, path, reply };
        let loads = self.loads.as_ref().expect("taken only in drop");
        loads.send(load).expect("the thread lives as long as its handle");
        answer.recv().expect("the thread answers every load")
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.loads = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the version loader panicked");
        }
    }
}
