//! The file that a run leaves. A weight file never changes under its name, so an existing one is refused before the work
//! begins, and what an interrupted run has to show gets a name that says how far it came.

use std::path::{Path, PathBuf};

use super::error::{Result, TrainError};

/// Where a weight file will be.
pub(super) struct Output {
    path: PathBuf,
    may_replace: bool,
    /// What the run reads, by the argument that names it; canonical.
    inputs: Vec<(&'static str, PathBuf)>,
}

impl Output {
    /// Refuses a path that could not be written at the end, or that is one of the run's own `inputs`: (argument, file).
    pub(super) fn check(path: &Path, may_replace: bool, inputs: &[(&'static str, Option<&Path>)]) -> Result<Output> {
        let refuse = |reason: String| Err(TrainError::Output { path: path.to_owned(), reason });
        let folder = folder_of(path);
        if path.file_name().is_none() {
            return refuse("it names no file".to_owned());
        }
        if !folder.is_dir() {
            return refuse(format!("there is no folder {}", folder.display()));
        }
        if path.is_dir() {
            return refuse("it is a folder".to_owned());
        }
        // What is not there is complained about where it is read.
        let canonical =
            |(name, path): &(&'static str, Option<&Path>)| Some((*name, path.as_ref()?.canonicalize().ok()?));
        let inputs = inputs.iter().filter_map(canonical).collect();
        let output = Output { path: path.to_owned(), may_replace, inputs };
        if let Some(reason) = output.taken(path) {
            return refuse(reason);
        }
        let probe = folder.join(format!(".honed-train-{}", std::process::id()));
        if let Err(error) = std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe)) {
            return refuse(format!("{} cannot be written: {error}", folder.display()));
        }
        Ok(output)
    }

    /// Refuses a run that writes its epochs, because of `argument`, where one of their names is taken; the first `n_own` of them it
    /// may have written itself.
    pub(super) fn check_epochs(&self, epochs: usize, n_own: usize, argument: &str) -> Result<()> {
        let folder = folder_of(&self.path);
        // Looked for in the folder: there may be a million epochs.
        for entry in std::fs::read_dir(folder).map_err(TrainError::io(folder))? {
            let name = entry.map_err(TrainError::io(folder))?.file_name();
            let name = name.to_string_lossy();
            let Some(epoch) = self.epoch_of(&name).filter(|epoch| (1..=epochs).contains(epoch)) else { continue };
            let path = folder.join(&*name);
            let reason = if epoch <= n_own { self.is_read(&path) } else { self.taken(&path) };
            if let Some(reason) = reason {
                let reason = format!("{argument} would write {name}: {reason}");
                return Err(TrainError::Output { path: self.path.clone(), reason });
            }
        }
        Ok(())
    }

    /// The epoch whose weights a file of this name holds.
    fn epoch_of(&self, name: &str) -> Option<usize> {
        let stem = self.path.file_stem()?.to_string_lossy();
        let epoch = name.strip_prefix(&format!("{stem}.epoch-"))?.split('.').next()?.parse().ok()?;
        (self.at(&format!("epoch-{epoch}")).file_name()?.to_string_lossy() == name).then_some(epoch)
    }

    /// Why a file that is there must stay.
    fn taken(&self, path: &Path) -> Option<String> {
        path.canonicalize().ok()?;
        match self.may_replace {
            true => self.is_read(path),
            false => Some("it exists already; --replace allows to replace it".to_owned()),
        }
    }

    /// Why a file must stay that the run reads.
    pub(super) fn is_read(&self, path: &Path) -> Option<String> {
        let canonical = path.canonicalize().ok()?;
        let (argument, _) = self.inputs.iter().find(|(_, input)| *input == canonical)?;
        Some(format!("it is the file of {argument}, and would be lost"))
    }

    /// The whole run's.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `model.gguf` after epoch 1 is `model.epoch-1.gguf`.
    pub(super) fn at(&self, mark: &str) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let name = match self.path.extension() {
            Some(extension) => format!("{stem}.{mark}.{}", extension.to_string_lossy()),
            None => format!("{stem}.{mark}"),
        };
        self.path.with_file_name(name)
    }

    /// As [`Output::at`] under a name that nothing has yet: whoever interrupts a run cannot be asked what may be replaced.
    pub(super) fn free_at(&self, mark: &str) -> PathBuf {
        let names = std::iter::once(mark.to_owned()).chain((2..).map(|n: u64| format!("{mark}-{n}")));
        names.map(|mark| self.at(&mark)).find(|path| !path.exists()).expect("some name is free")
    }
}

/// Where a file or folder of this path lies.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_refused_before_the_work() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = |name: &str| {
            let refused = Output::check(&folder.path().join(name), false, &[]);
            refused.err().unwrap_or_else(|| panic!("{name} passed")).to_string()
        };
        std::fs::write(folder.path().join("old.gguf"), b"x").expect("written");
        assert!(refused("none/model.gguf").contains("there is no folder"));
        assert!(refused("old.gguf").contains("--replace"));
        assert!(refused(".").contains("folder"));
        assert!(Output::check(&folder.path().join("old.gguf"), true, &[]).is_ok());
        let output = Output::check(&folder.path().join("new.gguf"), false, &[]).expect("free");
        assert_eq!(output.at("step-7"), folder.path().join("new.step-7.gguf"));
    }

    #[test]
    fn a_run_never_replaces_what_it_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).expect("made");
        std::fs::write(at("a.gguf"), b"x").expect("written");
        std::fs::write(at("b.epoch-2.gguf"), b"x").expect("written");
        let model = at("sub/../a.gguf");
        let inputs = [("--data", Some(Path::new("absent"))), ("--model", Some(model.as_path())), ("--mix", None)];
        let refused = Output::check(&at("a.gguf"), true, &inputs).err().expect("refused").to_string();
        assert!(refused.contains("the file of --model"), "{refused}");
        let epoch = at("b.epoch-2.gguf");
        let output = Output::check(&at("b.gguf"), true, &[("--model", Some(&epoch))]).expect("free");
        assert!(output.check_epochs(1, 0, "--keep-epochs").is_ok());
        assert!(output.check_epochs(2, 2, "--keep-epochs").is_err(), "its own or not, it is read");
        let refused = output.check_epochs(2, 0, "--keep-epochs").expect_err("refused").to_string();
        assert!(refused.contains("b.epoch-2.gguf: it is the file of --model"), "{refused}");
    }

    #[test]
    fn names_of_epochs_and_steps_that_are_taken_stay_so() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["x.epoch-3.gguf", "x.epoch-03.gguf", "x.epoch-1.safetensors", "x.step-7.gguf", "x.step-7-2.gguf"] {
            std::fs::write(folder.path().join(name), b"x").expect("written");
        }
        let output = |may_replace| Output::check(&folder.path().join("x.gguf"), may_replace, &[]).expect("free");
        assert!(output(false).check_epochs(2, 0, "--keep-epochs").is_ok());
        let refused = output(false).check_epochs(usize::MAX, 0, "--keep-epochs").expect_err("refused").to_string();
        assert!(refused.contains("x.epoch-3.gguf: it exists already; --replace"), "{refused}");
        assert!(output(true).check_epochs(3, 0, "--keep-epochs").is_ok());
        assert!(output(false).check_epochs(3, 3, "--keep-epochs").is_ok(), "its own, of before it was interrupted");
        assert!(output(false).check_epochs(3, 2, "--keep-epochs").is_err());
        assert_eq!(output(true).free_at("step-7"), folder.path().join("x.step-7-3.gguf"));
        assert_eq!(output(true).free_at("step-8"), folder.path().join("x.step-8.gguf"));
    }
}
