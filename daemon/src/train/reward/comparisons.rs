//! Rankings from a file, as the trainer takes them.

use std::path::Path;

use policy::Vocabulary;
use reward::{
    margin::{Margin, Scale},
    preference::{Preference, PreferenceError},
};

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
        let reader = Reader { vocabulary: &vocabulary, tokens_max, scale: args.margin_scale.scale() };
        let lines = read(&args.data, Record::comparison)?;
        let encoded = |path: &Path, lines: &[Line<Comparison>]| reader.preferences(path, lines);
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

/// How records become rankings.
struct Reader<'a> {
    vocabulary: &'a Vocabulary,
    /// Tokens of a response with its prompt.
    tokens_max: usize,
    /// Which margins strengths have; `None`: they do not count.
    scale: Option<Scale>,
}

impl Reader<'_> {
    fn preferences(&self, path: &Path, lines: &[Line<Comparison>]) -> Result<Vec<Preference>> {
        let mut encoder = Encoder::new(self.vocabulary, path, self.tokens_max);
        let (mut preferences, mut notes) = (Vec::with_capacity(lines.len()), Notes::default());
        for line in lines {
            let content = &line.record.content;
            let Some(encoded) = encoder.encode(line.number, &content.prompt, &content.responses)? else { continue };
            match Preference::new(encoded.prompt, encoded.answers, &content.ranks) {
                Ok(mut preference) => {
                    preference.labeler.clone_from(&content.worker);
                    preference.margin = self.margin(content);
                    notes.add(content, &preference);
                    preferences.push(preference);
                }
                // It says nothing, which is no mistake of the labeler.
                Err(PreferenceError::AllTied) => notes.n_tied += 1,
                Err(error) => return Err(fault(path, line.number, error.to_string())),
            }
        }
        if !lines.is_empty() {
            say::tell(encoder.tally.line(path));
        }
        notes.lines(path, self.scale).iter().for_each(say::tell);
        Ok(preferences)
    }

    /// The number that was given, or the one of the word that was given.
    fn margin(&self, content: &Comparison) -> Option<Margin> {
        content.margin.or_else(|| Some(self.scale?.margin(content.strength?)))
    }
}

/// What is to be said of the records of one file.
#[derive(Default)]
struct Notes {
    /// Rankings that are learnt from.
    n: usize,
    /// Rankings that say nothing.
    n_tied: usize,
    /// Rankings that contradict themselves.
    n_same: usize,
    /// Rankings with a margin of their own.
    n_with_margin: usize,
    /// Sum of these margins.
    margins: f64,
    /// Rankings with a word for their strength.
    n_with_strength: usize,
}

impl Notes {
    fn add(&mut self, content: &Comparison, preference: &Preference) {
        self.n += 1;
        self.n_same += usize::from(contradicts_itself(preference));
        self.n_with_margin += usize::from(preference.margin.is_some());
        self.margins += preference.margin.map_or(0.0, Margin::get);
        self.n_with_strength += usize::from(content.strength.is_some());
    }

    fn lines(&self, path: &Path, scale: Option<Scale>) -> Vec<String> {
        let (path, n) = (path.display(), self.n);
        let unheard = match scale {
            None if self.n_with_strength > 0 => Some(format!(
                "{path}: {} rankings tell their strength, which --margin-scale none does not count",
                self.n_with_strength
            )),
            Some(_) if self.n_with_strength == 0 && n > 0 => {
                Some(format!("warning: {path}: no ranking tells its strength, which --margin-scale would count"))
            }
            _ => None,
        };
        let told = [
            (self.n_tied > 0)
                .then(|| format!("{path}: {} rankings tie all their responses and say nothing", self.n_tied)),
            (self.n_same > 0).then(|| {
                format!(
                    "warning: {path}: a response stands above one that is the same in {} of {n} rankings; such a pair \
                     teaches nothing",
                    self.n_same
                )
            }),
            (self.n_with_margin > 0).then(|| {
                let mean = self.margins / self.n_with_margin as f64;
                format!(
                    "{path}: {} of {n} rankings have a margin of their own, {mean:.3} on average",
                    self.n_with_margin
                )
            }),
            unheard,
        ];
        told.into_iter().flatten().collect()
    }
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
