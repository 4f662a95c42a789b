//! Rankings from a file, as the trainer takes them.

use std::path::Path;

use policy::Vocabulary;
use reward::preference::{Preference, PreferenceError};

use super::Args;
use crate::{
    cli::say,
    http::wire::dataset::{Comparison, PromptText, Record},
    train::{
        base::Base,
        dataset::{Line, fault, read},
        encode::Encoder,
        error::{Result, TrainError},
        split::{Split, split},
    },
};

/// What there is to learn from and to measure on.
pub(super) struct Comparisons {
    /// To learn from.
    pub(super) train: Vec<Preference>,
    /// To measure on.
    pub(super) validation: Vec<Preference>,
}

impl Comparisons {
    /// Reads, splits and tokenises.
    pub(super) fn load(args: &Args, base: &Base) -> Result<Comparisons> {
        let vocabulary = base.vocabulary()?;
        let tokens_max = args.fit.tokens_max(base.shape.context);
        let lines = read(&args.data, Record::comparison)?;
        let encoded = |path: &Path, lines: &[Line<Comparison>]| preferences(&vocabulary, path, tokens_max, lines);
        let (train, validation) = match &args.fit.validation {
            Some(path) => (encoded(&args.data, &lines)?, encoded(path, &read(path, Record::comparison)?)?),
            None => {
                let Split { train, validation, how } =
                    split(lines, args.fit.validation_percent, &args.fit.split_salt, |c| prompt_of(&c.prompt));
                say::tell(format_args!(
                    "{} rankings to learn from, {} for validation: {how}",
                    train.len(),
                    validation.len()
                ));
                (encoded(&args.data, &train)?, encoded(&args.data, &validation)?)
            }
        };
        if train.is_empty() {
            let reason = format!("no ranking is left to learn from (of at most {tokens_max} tokens a response)");
            return Err(TrainError::Data { path: args.data.clone(), reason });
        }
        Ok(Comparisons { train, validation })
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Preference> {
        self.train.iter().chain(&self.validation)
    }
}

fn prompt_of(prompt: &PromptText) -> String {
    match prompt {
        PromptText::Plain(text) => text.clone(),
        PromptText::Chat(turns) => format!("{turns:?}"),
    }
}

fn preferences(
    vocabulary: &Vocabulary,
    path: &Path,
    tokens_max: usize,
    lines: &[Line<Comparison>],
) -> Result<Vec<Preference>> {
    let mut encoder = Encoder::new(vocabulary, path, tokens_max);
    let (mut preferences, mut n_tied, mut n_same) = (Vec::with_capacity(lines.len()), 0, 0);
    for line in lines {
        let Comparison { prompt, responses, ranks, worker } = &line.record.content;
        let Some(encoded) = encoder.encode(line.number, prompt, responses)? else { continue };
        match Preference::new(encoded.prompt, encoded.answers, ranks) {
            Ok(mut preference) => {
                preference.labeler.clone_from(worker);
                n_same += usize::from(contradicts_itself(&preference));
                preferences.push(preference);
            }
            // It says nothing, which is no mistake of the labeler.
            Err(PreferenceError::AllTied) => n_tied += 1,
            Err(error) => return Err(fault(path, line.number, error.to_string())),
        }
    }
    if !lines.is_empty() {
        say::tell(encoder.tally.line(path));
    }
    if n_tied > 0 {
        say::tell(format_args!("{}: {n_tied} rankings tie all their responses and say nothing", path.display()));
    }
    if n_same > 0 {
        say::tell(format_args!(
            "warning: {}: a response stands above one that is the same in {n_same} of {} rankings; such a pair teaches \
             nothing",
            path.display(),
            preferences.len()
        ));
    }
    Ok(preferences)
}

/// Whether equal responses have different ranks: no model can score them apart, so their loss stays ln 2.
fn contradicts_itself(preference: &Preference) -> bool {
    let ranked: Vec<_> = preference.responses().iter().zip(preference.ranks()).collect();
    ranked
        .iter()
        .enumerate()
        .any(|(i, (one, rank))| ranked[i + 1..].iter().any(|(other, other_rank)| one == other && rank != other_rank))
}

#[cfg(test)]
mod tests {
    use policy::TokenId;

    use super::*;

    #[test]
    fn a_response_above_itself_is_noticed_and_a_tie_with_itself_is_not() {
        let contradicts = |responses: &[u32], ranks: &[u32]| {
            let responses = responses.iter().map(|id| vec![TokenId(*id)]).collect();
            contradicts_itself(&Preference::new(Vec::new(), responses, ranks).expect("a ranking"))
        };
        assert!(contradicts(&[1, 1], &[1, 2]) && contradicts(&[1, 2, 1], &[1, 1, 2]));
        assert!(!contradicts(&[1, 2], &[1, 2]) && !contradicts(&[1, 2, 1], &[1, 2, 1]));
    }
}
