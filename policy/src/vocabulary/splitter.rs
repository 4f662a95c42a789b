//! How a model's text is cut into words, and the stack that this takes.
//!
//! Before llama.cpp looks for tokens it cuts a text into words, with one of some forty sets of patterns. Those of the large
//! families it follows by hand, in loops. All others it hands to libstdc++'s `std::regex`, which calls itself for every
//! character of a match: 26,000 exclamation marks overflow 8 MiB, and an overflow ends the process (llama.cpp's issue
//! 27783). So the texts of such a model are cut on a thread whose stack was made for their length, and have a longest one.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
};

use llama_cpp_2::model::LlamaModel;

/// Stack for one character of a match. Measured with llama.cpp's own `unicode.cpp` and GCC 12, over all its patterns and
/// runs of twenty kinds of characters: 321 bytes as it is built here (-O3), 529 without any optimisation.
const CHAR_STACK_BYTES: usize = 2 * 321;
/// Stack for everything else.
const BASE_STACK_BYTES: usize = 512 << 10;
/// Longest text, characters: 336 MiB of stack, of which a text of one match touches half and an ordinary one next to nothing.
const CHARS_MAX: usize = 1 << 19;
/// Longest text that every stack carries as it is.
const CHARS_IN_PLACE_MAX: usize = 512;
/// Longest text that does not wait for others: what clients can make of stacks at once is bounded like everything else.
const CHARS_AT_ONCE_MAX: usize = 1 << 14;

/// Kinds of vocabulary (`tokenizer.ggml.model`) that are not cut into words by patterns.
const WITHOUT_PATTERNS: [&str; 5] = ["llama", "bert", "t5", "rwkv", "plamo2"];
/// Sets of patterns (`tokenizer.ggml.pre`) that llama.cpp's `unicode_regex_split_custom` follows by hand, beside patterns of
/// one to three characters at most. What is not here, a new set among it, gets the stack.
const BY_HAND: [&str; 53] = [
    // As Llama 3.
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "dbrx",
    "smaug-bpe",
    "chatglm-bpe",
    "glm4",
    "glm5",
    // As GPT-2, some with digits by themselves.
    "gpt-2",
    "phi-2",
    "jina-es",
    "jina-de",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-es",
    "jina-v2-de",
    "roberta-bpe",
    "gigachat",
    "a.x-4.0",
    "mellum",
    "mellum2",
    "modern-bert",
    "exaone",
    "exaone4",
    "mpt",
    "olmo",
    "jais",
    "trillion",
    "granite-docling",
    "starcoder",
    "refact",
    "command-r",
    "smollm",
    "codeshell",
    "minerva-7b",
    // As Qwen 2 and 3.5.
    "qwen2",
    "qwen35",
    "deepseek-r1-qwen",
    "kormo",
    "f2llmv2",
    "megrez",
    "stablelm2",
    "hunyuan",
    "solar-open",
    "grok-2",
    "laguna",
    // A pattern of its own.
    "kimi-k2",
];
/// Sets that cut at line breaks alone, by hand.
const AT_LINE_BREAKS: [&str; 4] = ["gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe"];

/// Why a text has no tokens. A sentence that can follow the field's name.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// Longer than the stack on which this model's texts are cut.
    #[error("must have at most {n_chars_max} characters for this model's tokenizer, not {n_chars}")]
    TooLong {
        /// Characters of the text.
        n_chars: usize,
        /// Characters of the longest text.
        n_chars_max: usize,
    },
    /// The operating system gave no thread with such a stack.
    #[error("cannot be cut into tokens: no thread: {0}")]
    Thread(#[from] io::Error),
}

/// The way of one model.
#[derive(Debug)]
pub(super) enum Splitter {
    /// In loops, on any stack.
    Loops,
    /// With a call for every character; long texts take turns.
    Calls(Mutex<()>),
}

impl Splitter {
    /// What llama.cpp does with this model's texts.
    pub(super) fn of(model: &LlamaModel) -> Splitter {
        let kind = model.meta_val_str("tokenizer.ggml.model").unwrap_or_default();
        // llama.cpp does not read the patterns' name where the kind says it all.
        let patterns = match kind.as_str() {
            "gemma4" => "gemma4".to_owned(),
            _ => model.meta_val_str("tokenizer.ggml.pre").unwrap_or_default(),
        };
        Splitter::named(&kind, &patterns)
    }

    fn named(kind: &str, patterns: &str) -> Splitter {
        let is_byte_pair = matches!(kind, "gpt2" | "gemma4");
        let by_hand = BY_HAND.contains(&patterns) || AT_LINE_BREAKS.contains(&patterns);
        match WITHOUT_PATTERNS.contains(&kind) || is_byte_pair && by_hand {
            true => Splitter::Loops,
            false => Splitter::Calls(Mutex::new(())),
        }
    }

    /// Runs what cuts `text`, on a stack that carries it.
    pub(super) fn run<T: Send>(&self, text: &str, cut: impl FnOnce() -> T + Send) -> Result<T, TokenizeError> {
        let Splitter::Calls(turn) = self else {
            return Ok(cut());
        };
        let n_chars = text.chars().count();
        if n_chars > CHARS_MAX {
            return Err(TokenizeError::TooLong { n_chars, n_chars_max: CHARS_MAX });
        }
        if n_chars <= CHARS_IN_PLACE_MAX {
            return Ok(cut());
        }
        let _turn = (n_chars > CHARS_AT_ONCE_MAX).then(|| turn.lock().unwrap_or_else(PoisonError::into_inner));
        let thread = thread::Builder::new().name("tokenizer".into());
        let thread = thread.stack_size(BASE_STACK_BYTES + n_chars * CHAR_STACK_BYTES);
        thread::scope(|scope| {
            let cutting = thread.spawn_scoped(scope, cut)?;
            Ok(cutting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only what was read in llama.cpp's sources is trusted. Method: sets followed by hand, sets that are not, and a
    /// vocabulary of another kind under a trusted name.
    #[test]
    fn what_is_not_known_gets_a_stack() {
        for (kind, patterns) in [("gpt2", "gpt-2"), ("gpt2", "qwen2"), ("gemma4", "gemma4"), ("llama", "default")] {
            assert!(matches!(Splitter::named(kind, patterns), Splitter::Loops), "{kind} {patterns}");
        }
        for (kind, patterns) in
            [("gpt2", "default"), ("gpt2", ""), ("gpt2", "gpt-4o"), ("hybriddna", "gpt-2"), ("", "")]
        {
            assert!(matches!(Splitter::named(kind, patterns), Splitter::Calls(_)), "{kind} {patterns}");
        }
    }

    #[test]
    fn texts_that_no_stack_carries_are_refused_where_one_is_needed() {
        let splitter = Splitter::named("gpt2", "default");
        let longest = "!".repeat(CHARS_MAX);
        assert_eq!(splitter.run(&longest, || 1).unwrap(), 1);
        let longer = longest + "!";
        assert!(
            matches!(splitter.run(&longer, || 0), Err(TokenizeError::TooLong { n_chars, .. }) if n_chars > CHARS_MAX)
        );
        assert_eq!(Splitter::named("gpt2", "gpt-2").run(&longer, || 1).unwrap(), 1);
    }
}
