//! One response to judge, as tokens: refused where it is over-long, or cut as the client said.

use std::sync::Arc;

use policy::{TokenId, Vocabulary, chat_template::Message};

use crate::http::{
    error::ApiError,
    prompts,
    wire::{
        error::{CONTEXT_LENGTH_EXCEEDED, FIELDS_DISAGREE},
        scoring::{Cut, Keep},
    },
};

/// A prompt as the policy saw it; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Prompt {
    pub(super) tokens: Arc<[TokenId]>,
    /// Where there are many responses to it, so that its text is made once.
    text: Option<Arc<str>>,
}

impl Prompt {
    /// One that many responses have.
    pub(super) fn shared(tokens: Vec<TokenId>, vocabulary: &Vocabulary) -> Prompt {
        let prompt = Prompt::from(tokens);
        Prompt { text: Some(prompt.text(vocabulary)), ..prompt }
    }

    /// As a reward server gets it, special tokens spelled out.
    pub(super) fn text(&self, vocabulary: &Vocabulary) -> Arc<str> {
        self.text.clone().unwrap_or_else(|| vocabulary.detokenize(&self.tokens, true).into())
    }
}

impl From<Vec<TokenId>> for Prompt {
    fn from(tokens: Vec<TokenId>) -> Prompt {
        Prompt { tokens: tokens.into(), text: None }
    }
}

/// One response to judge, as tokens.
pub(crate) struct Item {
    pub(crate) prompt: Prompt,
    /// To the token at which the score is read.
    pub(crate) response: Vec<TokenId>,
}

impl Item {
    /// A prompt and a response that ended: its end token is where the score is read. `param` is what the client calls them.
    pub(crate) fn pair(
        vocabulary: &Vocabulary,
        prompt: impl Into<Prompt>,
        response: &str,
        param: &str,
    ) -> Result<Item, ApiError> {
        let mut response = vocabulary.tokenize(response).map_err(|error| prompts::untokenized(param, &error))?;
        response.push(vocabulary.end_token());
        Ok(Item { prompt: prompt.into(), response })
    }

    /// Prompt and response in one.
    pub(crate) fn whole(response: Vec<TokenId>) -> Item {
        Item { prompt: Prompt::default(), response }
    }

    /// A conversation that ends with the answer to be judged.
    pub(crate) fn chat(vocabulary: &Vocabulary, messages: &[Message]) -> Result<Item, ApiError> {
        let (_, context) = messages.split_last().expect("the wire checked that there is an answer");
        let prompt = vocabulary.chat(context).map_err(prompts::refused_by_template)?;
        let mut whole = vocabulary.chat_with_answer(messages).map_err(prompts::refused_by_template)?;
        let at = prompt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        let response = whole.split_off(at);
        Ok(Item { prompt: whole.into(), response })
    }

    /// Nothing over-long is judged silently: it is refused, or cut as the client said.
    pub(super) fn fit(self, window: usize, cut: Option<Cut>, param: &str) -> Result<Item, ApiError> {
        let tokens = self.prompt.tokens.len() + self.response.len();
        let item = match cut {
            Some(cut) => self.keep(cut.tokens_max.unwrap_or(window).min(window), cut.keep),
            None if tokens > window => return Err(too_long(param, &format!("{tokens} tokens"), window)),
            None => self,
        };
        match item.response.is_empty() {
            true => {
                let message = format!("`{param}` has no response to judge: no token of it is left");
                Err(ApiError::coded(FIELDS_DISAGREE, param, message))
            }
            false => Ok(item),
        }
    }

    /// Its last or its first `n` tokens, copied where it has more: a list that is cut in its place keeps the room of the whole.
    fn keep(self, n: usize, keep: Keep) -> Item {
        let (prompt, response) = (&self.prompt.tokens[..], &self.response[..]);
        let n_over = (prompt.len() + response.len()).saturating_sub(n);
        if n_over == 0 {
            return self;
        }
        let (prompt, response) = match keep {
            Keep::End => {
                let of_prompt = n_over.min(prompt.len());
                (&prompt[of_prompt..], &response[n_over - of_prompt..])
            }
            Keep::Beginning => {
                let of_response = n_over.min(response.len());
                (&prompt[..prompt.len() - (n_over - of_response)], &response[..response.len() - of_response])
            }
        };
        Item { prompt: prompt.to_vec().into(), response: response.to_vec() }
    }
}

/// The refusal of an input of this `size`, which is more than the reward model reads.
pub(super) fn too_long(param: &str, size: &str, window: usize) -> ApiError {
    let message = format!("`{param}` has {size}, but the reward model reads {window} at most");
    ApiError::coded(CONTEXT_LENGTH_EXCEEDED, param, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(prompt: std::ops::Range<u32>, response: std::ops::Range<u32>) -> Item {
        let prompt = prompt.map(TokenId).collect::<Vec<_>>();
        Item { prompt: prompt.into(), response: response.map(TokenId).collect() }
    }

    /// Goal: a cut keeps the end or the beginning of prompt and response together. Method: ten tokens in a row, every
    /// length, against the same cut of one list.
    #[test]
    fn a_cut_is_that_of_the_whole_sequence() {
        let all: Vec<TokenId> = (0..10).map(TokenId).collect();
        for n in 0..=12 {
            for (keep, expected) in
                [(Keep::End, &all[10_usize.saturating_sub(n)..]), (Keep::Beginning, &all[..n.min(10)])]
            {
                let cut = item(0..6, 6..10).keep(n, keep);
                assert_eq!([&cut.prompt.tokens[..], &cut.response].concat(), expected, "{n} {keep:?}");
            }
        }
    }

    /// Goal: what was cut away is no longer in memory: thousands of responses may share a prompt that is nearly a body long.
    /// Method: a long prompt that is shared, and a long response.
    #[test]
    fn what_is_cut_away_takes_no_room() {
        let long: Vec<TokenId> = (0..100_000).map(TokenId).collect();
        let shared = Prompt { text: Some("long".into()), ..Prompt::from(long.clone()) };
        for keep in [Keep::End, Keep::Beginning] {
            let cut = Item { prompt: shared.clone(), response: long.clone() }.keep(100_010, keep);
            let (prompt, response) = (cut.prompt, cut.response);
            assert!(!Arc::ptr_eq(&prompt.tokens, &shared.tokens), "a cut prompt is a copy");
            assert_eq!(prompt.text, None, "with a text of its own");
            assert_eq!(prompt.tokens.len() + response.len(), 100_010);
            assert!(response.capacity() < 101_000 - prompt.tokens.len(), "{keep:?}");
        }
    }

    #[test]
    fn a_prompt_that_fits_is_shared_by_its_responses() {
        let prompt = Prompt { text: Some("six".into()), ..Prompt::from(vec![TokenId(1); 6]) };
        let fit = |cut| Item { prompt: prompt.clone(), response: vec![TokenId(7)] }.fit(10, cut, "x");
        for cut in [None, Some(Cut { tokens_max: None, keep: Keep::End })] {
            let fitted = fit(cut).expect("it fits").prompt;
            assert!(Arc::ptr_eq(&fitted.tokens, &prompt.tokens) && fitted.text == prompt.text);
        }
    }

    #[test]
    fn over_long_is_an_error_unless_a_cut_was_asked_for() {
        let cut = |tokens_max, keep| Some(Cut { tokens_max, keep });
        let fit = |window, cut| item(0..6, 6..10).fit(window, cut, "x");
        assert!(fit(10, None).is_ok());
        assert!(fit(9, None).is_err());
        assert!(fit(9, cut(None, Keep::End)).is_ok());
        assert!(fit(6, cut(None, Keep::Beginning)).is_err(), "nothing of the response is left");
        let short = fit(10, cut(Some(3), Keep::End)).expect("it was cut");
        assert_eq!((short.prompt.tokens.len(), short.response.len()), (0, 3));
    }
}
