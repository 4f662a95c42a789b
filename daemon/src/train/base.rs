//! The model that training starts from: a file of the user's, or the supervised model that is built in.

use std::path::{Path, PathBuf};

use policy::{
    Vocabulary,
    architecture::Shape,
    checkpoint::{Checkpoint, check_answers, header_of_file, shape_of_file},
};

use super::error::{Result, TrainError};
use crate::{cli::say, demo::artefacts, scratch::Scratch};

/// A weight file whose architecture can be trained; nothing of it is in memory yet.
pub(super) struct Base {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Its numbers.
    pub(super) shape: Shape,
    /// Holds the built-in file, because llama.cpp reads files only.
    _scratch: Option<Scratch>,
}

impl Base {
    /// Looks at the head of the file; without one, at the built-in supervised model. A reward model is refused: what is trained
    /// from here answers.
    pub(super) fn open(model: Option<&Path>) -> Result<Base> {
        let (path, scratch) = match model {
            Some(path) => (path.to_owned(), None),
            None => {
                let scratch = Scratch::new("train").map_err(TrainError::io(std::env::temp_dir()))?;
                let path = scratch.path().join("built-in.gguf");
                std::fs::write(&path, artefacts::POLICY).map_err(TrainError::io(&path))?;
                say::tell("without --model: starting from the built-in supervised model");
                (path, Some(scratch))
            }
        };
        let header = header_of_file(&path).map_err(TrainError::base(&path))?;
        // Before the shape: of an adapter only a tensor would be missed.
        check_answers(&header).map_err(TrainError::base(&path))?;
        let shape = shape_of_file(&path).map_err(TrainError::base(&path))?;
        Ok(Base { path, shape, _scratch: scratch })
    }

    /// Its tokenizer.
    pub(super) fn vocabulary(&self) -> Result<Vocabulary> {
        Ok(Vocabulary::load(&self.path)?)
    }

    /// Its weights.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::read(&self.path).map_err(TrainError::base(&self.path))
    }
}
