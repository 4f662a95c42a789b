//! Records as tokens, cut where serving would cut them.
//!
//! A prompt and its answer are tokenised as one text: a prompt may end in the space that the answer's first token begins
//! with, and two halves that are tokenised apart then spell a text that the model has never seen. Where a token lies
//! across the border it belongs to the answer, and the record is counted. Conversations have no such border: the template
//! ends the prompt, and the answer follows as the policy would have drawn it.

use std::path::Path;

use policy::{Message, TokenId, Vocabulary, sequence_batch::Sequence, vocabulary::TokenizeError};

use super::{
    dataset::{Line, fault},
    error::Result,
};
use crate::http::wire::dataset::{Example, PromptText};

/// What became of the records of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Records that were used.
    pub(super) n_used: usize,
    /// Records with more tokens than allowed.
    pub(super) n_too_long: usize,
    /// Records in which a token lies across the border of prompt and answer.
    pub(super) n_across: usize,
}

/// Turns the records of one file into tokens.
pub(super) struct Encoder<'a> {
    vocabulary: &'a Vocabulary,
    path: &'a Path,
    tokens_max: usize,
    /// So far.
    pub(super) tally: Tally,
}

/// A prompt with its answers, all too long ones among them.
pub(super) struct Encoded {
    /// What all answers follow.
    pub(super) prompt: Vec<TokenId>,
    /// With their end tokens.
    pub(super) answers: Vec<Vec<TokenId>>,
}

impl<'a> Encoder<'a> {
    /// For records of this file, of at most `tokens_max` tokens each.
    pub(super) fn new(vocabulary: &'a Vocabulary, path: &'a Path, tokens_max: usize) -> Encoder<'a> {
        Encoder { vocabulary, path, tokens_max, tally: Tally::default() }
    }

    /// All examples as sequences, with the prompt as targets too when `trains_on_prompts`.
    pub(super) fn examples(&mut self, lines: &[Line<Example>], trains_on_prompts: bool) -> Result<Vec<Sequence>> {
        let mut sequences = Vec::with_capacity(lines.len());
        for line in lines {
            match &line.record.content {
                Example::Text(text) => {
                    sequences.extend(self.document(line.number, text)?);
                    self.tally.n_used += 1;
                }
                Example::Exchange { prompt, completion } => {
                    let encoded = self.encode(line.number, prompt, std::slice::from_ref(completion))?;
                    let Some(Encoded { prompt, answers }) = encoded else { continue };
                    let mut sequence = Sequence::new(&prompt, &answers[0]);
                    if trains_on_prompts {
                        sequence.prompt_len = 1;
                    }
                    sequences.push(sequence);
                }
            }
        }
        Ok(sequences)
    }

    /// A prompt and its answers; `None` when one of them is too long.
    pub(super) fn encode(&mut self, line: usize, prompt: &PromptText, answers: &[String]) -> Result<Option<Encoded>> {
        let (encoded, is_across) = match prompt {
            PromptText::Chat(turns) => (self.chat(line, turns, answers)?, false),
            PromptText::Plain(text) => self.plain(line, text, answers)?,
        };
        let longest = encoded.answers.iter().map(Vec::len).max().unwrap_or(0);
        if encoded.prompt.len() + longest > self.tokens_max {
            self.tally.n_too_long += 1;
            return Ok(None);
        }
        self.tally.n_used += 1;
        self.tally.n_across += usize::from(is_across);
        Ok(Some(encoded))
    }

    /// A prompt that waits for its answer; `None` when it leaves no room for one.
    pub(super) fn prompt(&mut self, line: usize, prompt: &PromptText) -> Result<Option<Vec<TokenId>>> {
        let tokens = match prompt {
            PromptText::Plain(text) => self.cut(line, self.vocabulary.prompt(text))?,
            PromptText::Chat(turns) => {
                self.vocabulary.chat(turns).map_err(|e| fault(self.path, line, e.to_string()))?
            }
        };
        if tokens.len() >= self.tokens_max {
            self.tally.n_too_long += 1;
            return Ok(None);
        }
        self.tally.n_used += 1;
        Ok(Some(tokens))
    }

    fn chat(&self, line: usize, turns: &[Message], answers: &[String]) -> Result<Encoded> {
        let prompt = self.vocabulary.chat(turns).map_err(|error| fault(self.path, line, error.to_string()))?;
        let answers = answers.iter().map(|text| self.answer(line, text)).collect::<Result<_>>()?;
        Ok(Encoded { prompt, answers })
    }

    /// The longest beginning that the prompt alone shares with every whole text is the prompt.
    fn plain(&self, line: usize, prompt: &str, answers: &[String]) -> Result<(Encoded, bool)> {
        let tokens = |text: &str| self.cut(line, self.vocabulary.prompt(text));
        let alone = tokens(prompt)?;
        let wholes = answers.iter().map(|text| tokens(&format!("{prompt}{text}"))).collect::<Result<Vec<_>>>()?;
        let shared = |whole: &Vec<TokenId>| alone.iter().zip(whole).take_while(|(a, b)| a == b).count();
        let at = wholes.iter().map(shared).min().unwrap_or(alone.len());
        if at == 0 {
            // Nothing is predicted from nothing: a prompt that dissolves in every answer stays as serving would send it.
            let answers = answers.iter().map(|text| self.answer(line, text)).collect::<Result<_>>()?;
            return Ok((Encoded { prompt: alone, answers }, true));
        }
        let answers = wholes.iter().map(|whole| self.ended(whole[at..].to_vec())).collect();
        Ok((Encoded { prompt: alone[..at].to_vec(), answers }, at < alone.len()))
    }

    fn answer(&self, line: usize, text: &str) -> Result<Vec<TokenId>> {
        Ok(self.ended(self.cut(line, self.vocabulary.tokenize(text))?))
    }

    /// The tokens of a text of this line.
    fn cut(&self, line: usize, tokens: std::result::Result<Vec<TokenId>, TokenizeError>) -> Result<Vec<TokenId>> {
        tokens.map_err(|error| fault(self.path, line, format!("a text {error}")))
    }

    fn ended(&self, mut answer: Vec<TokenId>) -> Vec<TokenId> {
        answer.push(self.vocabulary.end_token());
        answer
    }

    /// A document between two separators, in windows that the model can read.
    fn document(&self, line: usize, text: &str) -> Result<Vec<Sequence>> {
        let first = self.vocabulary.begin_token().unwrap_or_else(|| self.vocabulary.end_token());
        let mut tokens = vec![first];
        tokens.extend(self.cut(line, self.vocabulary.tokenize(text))?);
        tokens.push(self.vocabulary.end_token());
        // The last token of a window is the first of the next, so that every token is a target once.
        let step = self.tokens_max.saturating_sub(1).max(1);
        let starts = (0..tokens.len().saturating_sub(1)).step_by(step);
        Ok(starts.map(|start| Sequence::text(tokens[start..(start + step + 1).min(tokens.len())].to_vec())).collect())
    }
}

impl Tally {
    /// What people should know about a file, in one line.
    pub(super) fn line(self, path: &Path) -> String {
        let mut line = format!("{}: {} records", path.display(), self.n_used);
        if self.n_too_long > 0 {
            line.push_str(&format!("; {} more are too long and are left out", self.n_too_long));
        }
        if self.n_across > 0 {
            line.push_str(&format!(
                "; in {} a token lies across the border of prompt and answer and counts as the answer's",
                self.n_across
            ));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use policy::checkpoint::Checkpoint;

    use super::*;
    use crate::{demo::artefacts, http::wire::dataset::Record};

    /// The built-in model's vocabulary.
    fn vocabulary() -> Vocabulary {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        Checkpoint::from_bytes(artefacts::POLICY).and_then(|c| c.write(&path)).expect("written");
        Vocabulary::load(&path).expect("a vocabulary")
    }

    fn plain(text: &str) -> PromptText {
        PromptText::Plain(text.to_owned())
    }

    /// Goal: what is learnt spells exactly the text, and its tokens are those of the whole text. Method: a prompt that ends
    /// in the space of the answer's first token, and one that does not.
    #[test]
    fn a_border_inside_a_token_belongs_to_the_answer() {
        let vocabulary = vocabulary();
        let mut encoder = Encoder::new(&vocabulary, Path::new("x"), 100);
        for (prompt, n_across) in [("what color is", 0), ("what color is ", 1)] {
            let answer = [if n_across == 0 { " the sky" } else { "the sky" }.to_owned()];
            let Encoded { prompt, answers } = encoder.encode(1, &plain(prompt), &answer).expect("fine").expect("short");
            let whole = [prompt, answers[0].clone()].concat();
            let (end, text) = whole.split_last().expect("tokens");
            assert_eq!(*end, vocabulary.end_token());
            assert_eq!(text, vocabulary.prompt("what color is the sky").unwrap());
            assert_eq!(encoder.tally.n_across, n_across);
        }
    }

    #[test]
    fn answers_share_the_prompt_that_all_of_them_leave_whole() {
        let vocabulary = vocabulary();
        let mut encoder = Encoder::new(&vocabulary, Path::new("x"), 100);
        let answers = ["the sky".to_owned(), "\nblue".to_owned()];
        let encoded = encoder.encode(1, &plain("what color is "), &answers).expect("fine").expect("short");
        for (answer, text) in encoded.answers.iter().zip(["what color is the sky", "what color is \nblue"]) {
            let whole = [encoded.prompt.as_slice(), answer].concat();
            assert_eq!(vocabulary.detokenize(&whole, false), text);
        }
    }

    #[test]
    fn conversations_end_as_the_policy_would_end_them() {
        let vocabulary = vocabulary();
        let mut encoder = Encoder::new(&vocabulary, Path::new("x"), 100);
        let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let prompt = PromptText::Chat(vec![turn("user", "hello")]);
        let encoded = encoder.encode(1, &prompt, &["hi".to_owned()]).expect("fine").expect("short");
        let served =
            vocabulary.chat_with_answer(&[turn("user", "hello"), turn("assistant", "hi")]).expect("a template");
        assert_eq!([encoded.prompt, encoded.answers[0].clone()].concat(), served);
    }

    #[test]
    fn long_records_are_left_out_and_documents_are_cut_without_loss() {
        let vocabulary = vocabulary();
        let mut encoder = Encoder::new(&vocabulary, Path::new("x"), 5);
        let text = "the sea is deep and the sky is blue and the bear is big";
        let line = |content| Line { number: 1, record: Record { user: None, content } };
        let lines = [
            line(Example::Exchange { prompt: plain("a"), completion: text.to_owned() }),
            line(Example::Text(text.to_owned())),
        ];
        let sequences = encoder.examples(&lines, false).expect("fine");
        assert_eq!((encoder.tally.n_too_long, encoder.tally.n_used), (1, 1));
        assert!(sequences.iter().all(|s| s.tokens.len() <= 5));
        let targets: Vec<TokenId> = sequences.iter().flat_map(|s| s.response().to_vec()).collect();
        let whole = [vocabulary.tokenize(text).unwrap(), vec![vocabulary.end_token()]].concat();
        assert_eq!(targets, whole, "every token is a target once");
    }
}
