//! OpenAI's `text_completion` objects, whole or in chunks.

use policy::{PolicyVersion, Vocabulary};

use crate::http::{
    answer::{Piece, Shape, Totals},
    chars::CharCount,
    chunk_usage::ChunkUsage,
    prompt_scores::PromptScores,
    prompts::Stamp,
    wire::{
        completion::{Completion, CompletionChoice},
        json,
        log_probs::LegacyLogProbs,
        prompt::Prompt,
        prompt_log_probs::{PromptLogProbs, PromptReport, prompt_log_probs, scores_bytes_min},
        timings::Timings,
        usage::Usage,
    },
};

/// A prompt's text, as it stands in front of its responses.
pub(super) struct Echo {
    text: String,
    /// Control tokens are part of it: the client sent ids.
    spells_controls: bool,
}

impl Echo {
    /// The text that a client sent, or the text of its ids.
    pub(super) fn of(vocabulary: &Vocabulary, prompt: &Prompt) -> Echo {
        match prompt {
            Prompt::Text(text) => Echo { text: text.clone(), spells_controls: false },
            Prompt::Tokens(ids) => Echo { text: vocabulary.detokenize(ids, true), spells_controls: true },
        }
    }

    /// Where each token of the prompt begins in this text, characters.
    fn offsets(&self, tokens: &[PromptReport]) -> Vec<usize> {
        let (mut offset, mut chars, mut n_unsaid) = (0, CharCount::default(), self.n_unsaid(tokens));
        let next = |token: &PromptReport| {
            let n_chars = if self.shows(token) { chars.begun(&token.text.0) } else { 0 };
            let unsaid = n_chars.min(n_unsaid);
            n_unsaid -= unsaid;
            let begins = offset;
            offset += n_chars - unsaid;
            begins
        };
        tokens.iter().map(next).collect()
    }

    /// Characters of the tokens before this text begins: SentencePiece's begin with a space that nobody wrote.
    fn n_unsaid(&self, tokens: &[PromptReport]) -> usize {
        let bytes = tokens.iter().filter(|token| self.shows(token)).flat_map(|token| &token.text.0);
        let n_spaces = bytes.take_while(|byte| **byte == b' ').count();
        n_spaces.saturating_sub(self.text.bytes().take_while(|byte| *byte == b' ').count())
    }

    fn shows(&self, token: &PromptReport) -> bool {
        self.spells_controls || !token.is_control
    }
}

/// What of a request decides how it is answered.
pub(super) struct Completions {
    pub(super) stamp: Stamp,
    pub(super) fingerprint: String,
    /// Texts in front of every response, by prompt; empty when not asked for.
    pub(super) echo: Vec<Echo>,
    pub(super) prompt_ids: Option<Vec<Vec<u32>>>,
    pub(super) n: u32,
    /// Alternatives per token in the `logprobs` object; `None` leaves the object out.
    pub(super) log_probs: Option<u32>,
    /// The object tells the distribution really drawn from, too.
    pub(super) behavior: bool,
    /// Alternatives per token in the `prompt_logprobs` list; `None` leaves the list out.
    pub(super) prompt_log_probs: Option<u32>,
    pub(super) usage: ChunkUsage,
    /// Characters of the text so far, by choice.
    pub(super) offsets: Vec<usize>,
    /// Scored prompts, by prompt; empty until one is there.
    pub(super) scores: Vec<Vec<PromptReport>>,
}

impl Completions {
    pub(super) fn of_version(mut self, version: PolicyVersion) -> Completions {
        self.fingerprint = version.to_string();
        self
    }

    fn prompt_of(&self, choice: u32) -> usize {
        (choice / self.n) as usize
    }

    /// Whether the echoed prompt has log-probs, so that it cannot be told before it is scored.
    fn scores_echo(&self) -> bool {
        !self.echo.is_empty() && self.log_probs.is_some()
    }

    fn choice(&mut self, piece: Piece) -> CompletionChoice {
        let log_probs = self.log_probs.is_some().then(|| self.log_probs_of(&piece));
        CompletionChoice {
            index: piece.choice,
            text: piece.text,
            logprobs: log_probs,
            finish_reason: piece.finish,
            prompt_token_ids: None,
            token_ids: self.prompt_ids.is_some().then_some(piece.token_ids),
            prompt_logprobs: None,
        }
    }

    /// A token's offset is where its first whole character begins; held-back text does not move it.
    fn log_probs_of(&mut self, piece: &Piece) -> LegacyLogProbs {
        let at = piece.choice as usize;
        while self.offsets.len() <= at {
            let prompt = self.prompt_of(self.offsets.len() as u32);
            self.offsets.push(self.echo.get(prompt).map_or(0, |echo| echo.text.chars().count()));
        }
        let mut log_probs = LegacyLogProbs::default();
        for report in &piece.reports {
            log_probs.push(report, self.offsets[at]);
            self.offsets[at] += report.n_chars;
        }
        log_probs
    }

    /// The part of the four arrays that belongs to an echoed prompt.
    fn echo_log_probs(&self, prompt: usize) -> Option<LegacyLogProbs> {
        let (n_top, echo) = (self.log_probs?, self.echo.get(prompt)?);
        let mut log_probs = LegacyLogProbs::default();
        let tokens = self.scores.get(prompt)?;
        for (token, offset) in tokens.iter().zip(echo.offsets(tokens)) {
            log_probs.push_prompt(token, n_top as usize, self.behavior, offset);
        }
        Some(log_probs)
    }

    fn prompt_log_probs_of(&self, prompt: usize) -> Option<PromptLogProbs> {
        let n_top = self.prompt_log_probs?;
        Some(prompt_log_probs(self.scores.get(prompt)?, n_top as usize))
    }

    fn json(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>, timings: Option<Timings>) -> String {
        let body = Completion {
            id: &self.stamp.id,
            object: "text_completion",
            created: self.stamp.created,
            model: &self.stamp.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
            timings,
        };
        json(&body)
    }

    fn event(&self, choice: CompletionChoice) -> String {
        let usage = self.usage.of(choice.index);
        self.json(vec![choice], usage, None)
    }

    /// The beginning of a stream's choice, before anything is drawn.
    fn beginning(&self, choice: u32, text: String, logprobs: Option<LegacyLogProbs>) -> CompletionChoice {
        CompletionChoice {
            index: choice,
            text,
            logprobs,
            finish_reason: None,
            prompt_token_ids: None,
            token_ids: self.prompt_ids.is_some().then(Vec::new),
            prompt_logprobs: None,
        }
    }
}

impl Shape for Completions {
    /// The prompts, when they are echoed without log-probs or their ids are wanted.
    fn opening(&self, number: u32) -> Option<String> {
        let echoes: &[Echo] = if self.scores_echo() { &[] } else { &self.echo };
        let n_prompts = echoes.len().max(self.prompt_ids.as_ref().map_or(0, Vec::len));
        let prompt = self.prompt_of(number);
        (prompt < n_prompts).then(|| {
            let text = echoes.get(prompt).map(|echo| echo.text.clone()).unwrap_or_default();
            let mut choice = self.beginning(number, text, None);
            choice.prompt_token_ids = self.prompt_ids.as_ref().map(|ids| ids[prompt].clone());
            self.event(choice)
        })
    }

    fn keep_prompt(&mut self, scores: PromptScores) {
        if self.scores.len() <= scores.prompt {
            self.scores.resize_with(scores.prompt + 1, Vec::new);
        }
        self.scores[scores.prompt] = scores.tokens;
    }

    fn prompt_chunk(&mut self, prompt: usize, number: u32) -> Option<String> {
        if number == self.n {
            self.scores[prompt] = Vec::new();
            return None;
        }
        let log_probs = self.echo_log_probs(prompt)?;
        let choice = prompt as u32 * self.n + number;
        Some(self.event(self.beginning(choice, self.echo[prompt].text.clone(), Some(log_probs))))
    }

    fn count(&mut self, piece: &Piece) {
        self.usage.count(piece);
    }

    fn chunk(&mut self, piece: Piece, timings: Option<Timings>) -> String {
        let choice = self.choice(piece);
        let usage = self.usage.of(choice.index);
        self.json(vec![choice], usage, timings)
    }

    fn usage_chunk(&self, totals: Totals) -> String {
        self.json(Vec::new(), Some(Some(totals.usage)), totals.timings)
    }

    fn whole_bytes_min(&self) -> usize {
        let scores: usize = self.scores.iter().map(|tokens| scores_bytes_min(tokens)).sum();
        let texts: usize = self.echo.iter().map(|echo| echo.text.len()).sum();
        let ids: usize = self.prompt_ids.iter().flatten().map(|ids| ids.len() * size_of::<u32>()).sum();
        (scores + texts + ids) * self.n as usize
    }

    fn whole(&mut self, pieces: Vec<Piece>, totals: Totals) -> String {
        let mut choices = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let prompt = self.prompt_of(piece.choice);
            let mut choice = self.choice(piece);
            if let Some(echo) = self.echo.get(prompt) {
                choice.text.insert_str(0, &echo.text);
            }
            if let Some(mut log_probs) = self.echo_log_probs(prompt) {
                log_probs.append(choice.logprobs.take().unwrap_or_default());
                choice.logprobs = Some(log_probs);
            }
            choice.prompt_logprobs = self.prompt_log_probs_of(prompt);
            choice.prompt_token_ids = self.prompt_ids.as_ref().map(|ids| ids[prompt].clone());
            choices.push(choice);
        }
        self.json(choices, Some(Some(totals.usage)), totals.timings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::log_probs::TokenText;

    fn offsets(text: &str, pieces: &[&str]) -> Vec<usize> {
        let report = |piece: &&str| PromptReport {
            id: 1,
            text: TokenText(piece.as_bytes().to_vec()),
            is_control: piece.starts_with('<'),
            score: None,
        };
        let echo = Echo { text: text.to_owned(), spells_controls: false };
        echo.offsets(&pieces.iter().map(report).collect::<Vec<_>>())
    }

    /// Goal: an offset is where the token begins in the text that is told. Method: prompts as byte-pair models cut them, and as
    /// SentencePiece does, with the space before them that the text has not, or has one more of.
    #[test]
    fn offsets_count_what_the_client_wrote() {
        assert_eq!(offsets("Hello world", &["Hello", " world"]), [0, 5]);
        assert_eq!(offsets("Hello world", &["<s>", " Hello", " world"]), [0, 0, 5]);
        assert_eq!(offsets(" Hello world", &["<s>", "  ", "Hello", " world"]), [0, 0, 1, 6]);
        assert_eq!(offsets("\u{e9}t\u{e9}!", &["<s>", " ", "\u{e9}t", "\u{e9}", "!"]), [0, 0, 0, 2, 3]);
        assert_eq!(offsets("  ", &["<s>", "   ", "<x>"]), [0, 0, 2]);
    }
}
