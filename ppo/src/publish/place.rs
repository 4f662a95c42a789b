//! A candidate's place in memory: waited for, and left whatever ends what it was there for.

use std::time::Duration;

use policy::{
    PolicyVersion,
    engine::{Engine, EngineError},
};

use super::{PublishError, Publisher};

/// How often it is looked at whether there is a place.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// Left in a panic, too: otherwise the next candidate would wait in vain.
pub(super) struct Place {
    pub(super) engine: Engine,
    pub(super) version: PolicyVersion,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Refused where it is not there, or serves already.
            drop(self.engine.retire(self.version));
        }
    }
}

impl Publisher<'_> {
    /// Brings a candidate into memory once there is a place for it, however long the answers of an old version take: an update
    /// that was computed is worth more than the wait.
    pub(super) fn load_candidate(&self, version: PolicyVersion, go_on: &dyn Fn() -> bool) -> Result<(), PublishError> {
        loop {
            while !self.engine.make_room(version) {
                if !go_on() {
                    return Err(PublishError::Interrupted);
                }
                std::thread::sleep(ROOM_POLL);
            }
            match self.load(version) {
                // Somebody else came first.
                Err(PublishError::Engine(EngineError::Crowded { .. })) => {}
                loaded => return loaded,
            }
        }
    }
}
