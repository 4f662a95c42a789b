//! SHA-256 of weight files: the name under which a version's bytes are recognised.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::model_error::{ModelError, Result};

/// SHA-256 of a file, shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of bytes in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Of a file, read in pieces.
///
/// # Errors
/// When it is no regular file (a FIFO would wait for its writer for ever), or cannot be read.
pub fn digest(path: &Path) -> Result<Digest> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    File::open(path).and_then(|mut file| digest_of(&mut file)).map_err(io)
}

/// Of an open file from its first byte.
///
/// # Errors
/// When the file cannot be read.
pub fn digest_of(file: &mut (impl Read + Seek)) -> io::Result<Digest> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(&buffer[..n]);
    }
}

/// Takes in what would have been written to a file from its start.
#[derive(Default)]
pub(super) struct Hashing {
    hasher: Sha256,
    n_written: u64,
}

impl Hashing {
    pub(super) fn finish(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.n_written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Hashing {
    /// Says where it is; what was hashed cannot be written again.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Current(0) => Ok(self.n_written),
            to => Err(io::Error::new(io::ErrorKind::Unsupported, format!("a digest cannot seek to {to:?}"))),
        }
    }
}
