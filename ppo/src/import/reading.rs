//! A file from outside as long as the daemon goes on.
//!
//! A large one is read three times, which takes minutes: before it is copied, while it is, and from the copy. At the daemon's end
//! each of these breaks off at the next piece.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use policy::engine::Engine;

/// Reads until the engine shuts down; from then on it fails.
pub(super) struct Reading<'a> {
    file: File,
    engine: &'a Engine,
}

impl<'a> Reading<'a> {
    pub(super) fn new(file: File, engine: &'a Engine) -> Reading<'a> {
        Reading { file, engine }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.engine.is_shutting_down() {
            // Not `Interrupted`, after which everybody reads again.
            true => Err(io::Error::other("the daemon is shutting down")),
            false => self.file.read(buffer),
        }
    }
}

impl Seek for Reading<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
