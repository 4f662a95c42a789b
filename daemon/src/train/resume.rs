//! Runs that can be gone on with: what a run is between two steps, in a file beside its result.
//!
//! A run is a function of its data, its model and its options, and the order of the data one of the seed. So the weights that
//! learn, the optimiser's moments and the number of steps are enough to go on bit for bit (on as many threads). The file names the
//! run that it is of, and is refused by any other; it ends with a digest of all that comes before it.

mod run_name;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use candle_core::Var;
use policy::{
    checkpoint::stream_durably,
    model_error::ModelError,
    optimizer::{AdamW, read_run, write_run},
    sft::Resumed,
};
pub(super) use run_name::RunName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{
    error::{Result, TrainError},
    options::FitOptions,
    output::Output,
};
use crate::{
    cli::say,
    http::wire::{json, written},
};

/// First line; another layout gets another number.
const MAGIC: &str = "honed training state 1";
/// Longest head that is read: a damaged file must not be searched for its end.
const HEAD_BYTES_MAX: u64 = 1 << 20;
/// Bytes of the digest at the end.
const DIGEST_BYTES: u64 = 32;

/// The line after [`MAGIC`]; `P`: what else the run has to remember.
#[derive(Serialize, Deserialize)]
struct Head<P> {
    run: String,
    step: usize,
    place: P,
}

/// The file of one run, there or not.
pub(super) struct ResumeFile {
    path: PathBuf,
    run: String,
    is_asked_for: bool,
    every: Duration,
    written: Instant,
}

/// What lies beside `out`: `model.gguf` has `model.resume`.
fn path_beside(out: &Path) -> PathBuf {
    out.with_extension("resume")
}

/// Refuses to begin anew over an interrupted run that nobody has said what is to become of, and to write a state over anything else.
///
/// # Errors
/// When there is one, and neither `--resume` nor `--replace` was given; when its file would be the result's, or one that is read.
pub(super) fn check(output: &Output, fit: &FitOptions) -> Result<()> {
    let path = path_beside(output.path());
    let is_out = (path == output.path()).then(|| "it is --out itself; give that another ending".to_owned());
    if let Some(reason) = is_out.or_else(|| output.is_read(&path)) {
        let reason = format!("the state of the run would lie in {}: {reason}", path.display());
        return Err(TrainError::Output { path: output.path().to_owned(), reason });
    }
    if fit.resume || fit.replace || !path.exists() {
        return Ok(());
    }
    let reason =
        format!("{} holds an interrupted run: --resume goes on with it, --replace begins anew", path.display());
    Err(TrainError::Output { path: output.path().to_owned(), reason })
}

/// With `--resume`, what the interrupted run of this output remembers, whichever run it was.
///
/// # Errors
/// When its file is damaged.
pub(super) fn place<P: DeserializeOwned>(output: &Output, fit: &FitOptions) -> Result<Option<P>> {
    let path = path_beside(output.path());
    if !fit.resume || !path.exists() {
        return Ok(None);
    }
    Ok(Some(open(&path)?.1.place))
}

impl ResumeFile {
    /// Of the run of this name that writes `output`.
    pub(super) fn of(output: &Output, fit: &FitOptions, run: &RunName) -> ResumeFile {
        ResumeFile {
            path: path_beside(output.path()),
            run: run.digest(),
            is_asked_for: fit.resume,
            every: Duration::from_secs_f64(fit.state_every_s),
            written: Instant::now(),
        }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// With `--resume`, puts back the weights of the run that was interrupted; `None` where there is none, or none was asked for.
    /// Rounded copies of the weights are the caller's to forget.
    ///
    /// # Errors
    /// When the file is damaged, or of another run.
    pub(super) fn restore<P: DeserializeOwned>(
        &self,
        parameters: &BTreeMap<String, Var>,
    ) -> Result<Option<(Resumed, P)>> {
        if !self.is_asked_for {
            return Ok(None);
        }
        if !self.path.exists() {
            say::tell(format_args!("{} is not there: the run begins at its start", self.path.display()));
            return Ok(None);
        }
        let (mut reader, head) = open::<P>(&self.path)?;
        if head.run != self.run {
            return Err(refused(&self.path, "it is of another run: the model, the data or an option was another one"));
        }
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        let adam = read_run(&mut reader, parameters, &io_error)?;
        let found = reader.finish().map_err(TrainError::io(&self.path))?;
        if !found {
            return Err(refused(&self.path, "it is damaged: its digest is not that of what it holds"));
        }
        say::tell(format_args!("going on after step {}, from {}", head.step, self.path.display()));
        Ok(Some((Resumed { step: head.step, adam }, head.place)))
    }

    /// Writes it if the last time is long enough ago (`--state-every-s`); as [`ResumeFile::write_or_tell`].
    pub(super) fn write_if_due<P: Serialize>(
        &mut self,
        (step, place): (usize, &P),
        parameters: &BTreeMap<String, Var>,
        adam: &AdamW,
    ) {
        if self.written.elapsed() >= self.every {
            self.write_or_tell((step, place), parameters, adam);
        }
    }

    /// Writes it. Where the disk refuses, the run goes on, and the state before stays what it was.
    pub(super) fn write_or_tell<P: Serialize>(
        &mut self,
        at: (usize, &P),
        parameters: &BTreeMap<String, Var>,
        adam: &AdamW,
    ) {
        if let Err(error) = self.write(at, parameters, adam) {
            say::tell(format_args!("warning: what to go on from after an interruption could not be written: {error}"));
            self.written = Instant::now();
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses; the one before is then what it was.
    pub(super) fn write<P: Serialize>(
        &mut self,
        (step, place): (usize, &P),
        parameters: &BTreeMap<String, Var>,
        adam: &AdamW,
    ) -> Result<()> {
        let io_error = |source| ModelError::Io { path: self.path.clone(), source };
        let head = json(&Head { run: self.run.clone(), step, place });
        stream_durably(&self.path, |out| {
            let mut out = Hashed { inner: out, hasher: Sha256::new() };
            out.write_all(format!("{MAGIC}\n{head}\n").as_bytes()).map_err(io_error)?;
            write_run(&mut out, parameters, adam.state(), &io_error)?;
            let digest = out.hasher.finalize();
            out.inner.write_all(&digest).map_err(io_error)
        })?;
        self.written = Instant::now();
        Ok(())
    }

    /// The run has ended, and there is nothing to go on with.
    pub(super) fn remove(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                say::tell(format_args!("warning: {} is of no use any more and stays: {error}", self.path.display()));
            }
            _ => {}
        }
    }
}

/// Its head, and a reader that stands behind it.
fn open<P: DeserializeOwned>(path: &Path) -> Result<(Hashed<Body>, Head<P>)> {
    let file = File::open(path).map_err(TrainError::io(path))?;
    let length = file.metadata().map_err(TrainError::io(path))?.len();
    let inner = BufReader::with_capacity(1 << 20, file).take(length.saturating_sub(DIGEST_BYTES));
    let mut reader = Hashed { inner, hasher: Sha256::new() };
    if reader.line().map_err(TrainError::io(path))? != MAGIC.as_bytes() {
        return Err(refused(path, "it is no training state of this version of honed"));
    }
    let head = reader.line().map_err(TrainError::io(path))?;
    let head = written(&head).map_err(|error| refused(path, &format!("its head: {error}")))?;
    Ok((reader, head))
}

fn refused(path: &Path, what: &str) -> TrainError {
    TrainError::Data { path: path.to_owned(), reason: format!("{what}; --replace without --resume begins anew") }
}

/// All of the file but the digest at its end.
type Body = io::Take<BufReader<File>>;

/// What goes through it is part of the digest.
struct Hashed<T> {
    inner: T,
    hasher: Sha256,
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }
}

impl Hashed<Body> {
    /// A line without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.inner).take(HEAD_BYTES_MAX).read_until(b'\n', &mut line)?;
        self.hasher.update(&line);
        line.pop_if(|last| *last == b'\n');
        Ok(line)
    }

    /// Whether what was read is all that there is, and has the digest that stands behind it.
    fn finish(self) -> io::Result<bool> {
        let is_all = self.inner.limit() == 0;
        let mut digest = [0; DIGEST_BYTES as usize];
        self.inner.into_inner().read_exact(&mut digest)?;
        Ok(is_all && digest[..] == self.hasher.finalize()[..])
    }
}
