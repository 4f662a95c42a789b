//! A candidate's place in memory, also that of a file from outside: waited for, and left whatever ends what it was there for.

use std::time::Duration;

use policy::{
    PolicyVersion,
    engine::{Engine, EngineError},
};

use super::{PublishError, Publisher};

/// How often it is looked at whether there is a place.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// Left in a panic, too: otherwise the next candidate would wait in vain.
pub(crate) struct Place {
    pub(crate) engine: Engine,
    pub(crate) version: PolicyVersion,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Refused where it is not there, or serves already.
            drop(self.engine.retire(self.version));
        }
    }
}

/// Has `load` bring a version into memory once there is room for it: a place, and what whoever is leaving still has. False when
/// `go_on` said no first.
///
/// # Errors
/// What `load` says, but for a lack of room that may end.
pub(crate) fn once_there_is_room(
    engine: &Engine,
    version: PolicyVersion,
    go_on: &dyn Fn() -> bool,
    load: impl Fn() -> Result<(), EngineError>,
) -> Result<bool, EngineError> {
    loop {
        while !engine.make_room(version) {
            if !go_on() {
                return Ok(false);
            }
            std::thread::sleep(ROOM_POLL);
        }
        // Whoever has left when the load is refused has left more memory than it saw.
        let was_leaving = engine.is_anybody_leaving();
        match load() {
            // Somebody else came first.
            Err(EngineError::Crowded { .. }) => {}
            Err(EngineError::Memory { .. }) if was_leaving || engine.is_anybody_leaving() => {}
            loaded => return loaded.map(|()| true),
        }
        if !go_on() {
            return Ok(false);
        }
    }
}

impl Publisher<'_> {
    /// Brings a candidate into memory once there is room for it, however long the answers of an old version take: an update
    /// that was computed is worth more than the wait.
    pub(super) fn load_candidate(&self, version: PolicyVersion, go_on: &dyn Fn() -> bool) -> Result<(), PublishError> {
        let load = || self.load(Engine::load, version);
        match once_there_is_room(self.engine, version, go_on, load)? {
            true => Ok(()),
            false => Err(PublishError::Interrupted),
        }
    }
}
