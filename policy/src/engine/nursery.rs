//! The thread from which every owner thread is born.
//!
//! Linux gives a new thread the priority of the thread that made it, and a process without privileges can never raise it
//! again. New versions are loaded by the learner, whose threads run at the lowest priority; an owner thread born there would
//! serve at the lowest priority for the rest of its life, and llama.cpp's helper threads with it. So owner threads are born
//! here, on a thread made when the engine started.

use std::{io, thread};

use crossbeam_channel::{Sender, bounded};

use crate::{engine::EngineError, version::PolicyVersion};

type Body = Box<dyn FnOnce() + Send>;

struct Birth {
    name: String,
    body: Body,
    born: Sender<io::Result<()>>,
}

/// Makes threads at the priority of whoever made the nursery; ends with its last handle.
#[derive(Clone)]
pub(super) struct Nursery(Sender<Birth>);

impl Nursery {
    /// Starts the nursery on a thread of its own.
    pub(super) fn start() -> Result<Nursery, EngineError> {
        let (births, requested) = bounded::<Birth>(1);
        let body = move || {
            for birth in requested {
                let made = thread::Builder::new().name(birth.name).spawn(birth.body);
                // Nobody waits for this answer any more only if the engine is gone.
                drop(birth.born.send(made.map(drop)));
            }
        };
        thread::Builder::new()
            .name("engine-nursery".into())
            .spawn(body)
            .map_err(|e| EngineError::Thread(PolicyVersion::SFT, e))?;
        Ok(Nursery(births))
    }

    /// Makes the owner thread of a version.
    pub(super) fn spawn(&self, version: PolicyVersion, body: Body) -> Result<(), EngineError> {
        let (born, answer) = bounded(1);
        let failed = |e: io::Error| EngineError::Thread(version, e);
        let birth = Birth { name: format!("engine-{}", version.0), body, born };
        self.0.send(birth).map_err(|_| failed(io::Error::other("the nursery has ended")))?;
        answer.recv().map_err(|_| failed(io::Error::other("the nursery has ended")))?.map_err(failed)
    }
}
