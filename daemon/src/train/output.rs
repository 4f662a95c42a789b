//! The file that a run leaves. A weight file never changes under its name, so an existing one is refused before the work
//! begins, and what an interrupted run has to show gets a name that says how far it came.

use std::path::{Path, PathBuf};

use super::error::{Result, TrainError};

/// Where a weight file will be.
pub(super) struct Output {
    path: PathBuf,
}

impl Output {
    /// Refuses a path that could not be written at the end.
    pub(super) fn check(path: &Path, may_replace: bool) -> Result<Output> {
        let refuse = |reason: String| Err(TrainError::Output { path: path.to_owned(), reason });
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if path.file_name().is_none() {
            return refuse("it names no file".to_owned());
        }
        if !folder.is_dir() {
            return refuse(format!("there is no folder {}", folder.display()));
        }
        if path.is_dir() {
            return refuse("it is a folder".to_owned());
        }
        if path.exists() && !may_replace {
            return refuse("it exists already; --replace allows to replace it".to_owned());
        }
        let probe = folder.join(format!(".honed-train-{}", std::process::id()));
        if let Err(error) = std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe)) {
            return refuse(format!("{} cannot be written: {error}", folder.display()));
        }
        Ok(Output { path: path.to_owned() })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_refused_before_the_work() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = |name: &str| {
            let refused = Output::check(&folder.path().join(name), false);
            refused.err().unwrap_or_else(|| panic!("{name} passed")).to_string()
        };
        std::fs::write(folder.path().join("old.gguf"), b"x").expect("written");
        assert!(refused("none/model.gguf").contains("there is no folder"));
        assert!(refused("old.gguf").contains("--replace"));
        assert!(refused(".").contains("folder"));
        assert!(Output::check(&folder.path().join("old.gguf"), true).is_ok());
        let output = Output::check(&folder.path().join("new.gguf"), false).expect("free");
        assert_eq!(output.at("step-7"), folder.path().join("new.step-7.gguf"));
    }
}
