//! The fields that completions and chat share: how to draw, how to answer.

use std::collections::BTreeMap;

use policy::{SamplingParams, TokenId};
use serde_json::Value;

use super::{
    fields::{FieldError, Fields, as_integer, asks_for_nothing, is_within, kind},
    grammar::{self, NamedGrammar},
    unbuilt,
};

/// Choices per prompt at most (OpenAI's limit; CVE-2026-34756 is what happens without one).
pub(crate) const N_MAX: u32 = 128;
/// Stop texts at most, and characters of each.
const STOP_MAX: usize = 4;
const STOP_CHARS_MAX: usize = 1024;
/// Stop token ids and biased tokens at most.
const STOP_TOKENS_MAX: usize = 128;
const LOGIT_BIAS_MAX: usize = 1024;
/// Characters of a model or user name at most.
pub(crate) const NAME_CHARS_MAX: usize = 512;
/// Alternatives per token at most (vLLM's default; OpenAI allows 5 for completions, 20 for chat).
pub(crate) const LOG_PROBS_MAX: u32 = 20;

/// What a stream tells of token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamUsage {
    /// Nothing.
    Untold,
    /// All of them in a last chunk (`include_usage`).
    Last,
    /// Those so far in every chunk before it, too (`continuous_usage_stats`).
    EveryChunk,
}

/// What both generation routes understand.
pub(crate) struct Generation {
    /// The `model` field; `None` is the live policy.
    pub(crate) model: Option<String>,
    /// How to draw; `max_tokens` is only valid when [`Generation::max_tokens`] is there.
    pub(crate) sampling: SamplingParams,
    /// `max_tokens`, when given.
    pub(crate) max_tokens: Option<u32>,
    /// What the client called it.
    pub(crate) max_tokens_name: &'static str,
    /// Choices per prompt.
    pub(crate) n: u32,
    /// Choices to draw per prompt, of which the best `n` are told (`best_of`).
    pub(crate) n_drawn: u32,
    /// What the client called them, when it asked for more than one.
    pub(crate) choices_name: Option<&'static str>,
    /// Server-sent events instead of one body.
    pub(crate) stream: bool,
    /// What a stream tells of token counts.
    pub(crate) usage: StreamUsage,
    /// Alternatives per token of the prompt, in vLLM's shape; `None` leaves it unscored.
    pub(crate) prompt_log_probs: Option<u32>,
    /// What the responses must look like.
    pub(crate) grammar: Option<NamedGrammar>,
    /// Keeps the computed prompt to requests with the same salt (vLLM's field).
    pub(crate) cache_salt: Option<String>,
    /// Whether the exchange goes into the rollout log.
    pub(crate) store: bool,
    /// Token ids of prompt and choices in the answer.
    pub(crate) return_token_ids: bool,
    /// The log-probability of the distribution really drawn from, per token.
    pub(crate) return_behavior_logprobs: bool,
    /// Whom the client names as its user.
    pub(crate) user: Option<String>,
}

impl Generation {
    /// Takes the shared fields; `max_tokens`, at least `max_tokens_min`, is under the first of `max_tokens_names` that is
    /// present.
    pub(crate) fn take(
        f: &mut Fields,
        max_tokens_names: &[&'static str],
        max_tokens_min: u32,
    ) -> Result<Generation, FieldError> {
        unbuilt::refuse(f)?;
        let grammar = grammar::take(f)?;
        if f.boolean("add_generation_prompt")? == Some(false) {
            return Err(f.error("add_generation_prompt", "must be true in this version of honed"));
        }
        let (mut max_tokens, mut max_tokens_name) = (None, "max_tokens");
        for name in max_tokens_names {
            if let (None, Some(given)) = (max_tokens, f.count(name, max_tokens_min..=i32::MAX as u32)?) {
                (max_tokens, max_tokens_name) = (Some(given), name);
            }
        }
        free_of_form(f, grammar.is_some())?;
        // llama-server's own name counts there too, of two.
        let (n, n_cmpl) = (f.count("n", 1..=N_MAX)?, f.count("n_cmpl", 1..=N_MAX)?);
        let (n, n_name) = (n_cmpl.or(n).unwrap_or(1), if n_cmpl.is_some() { "n_cmpl" } else { "n" });
        let stream = f.boolean("stream")?.unwrap_or(false);
        let best_of = f.count("best_of", 1..=N_MAX)?;
        let n_drawn = best_of.unwrap_or(n);
        if n_drawn < n {
            return Err(f.disagrees("best_of", &format!("must be at least `{n_name}`, which is {n}, not {n_drawn}")));
        }
        if n_drawn > n && stream {
            return Err(f.disagrees("best_of", "must equal `n` when `stream` is true: the best are known at the end"));
        }
        let prompt_log_probs = f.count("prompt_logprobs", 0..=LOG_PROBS_MAX)?;
        if prompt_log_probs.is_some() && stream {
            return Err(f.error("prompt_logprobs", "is not allowed when `stream` is true"));
        }
        Ok(Generation {
            model: f.text("model", NAME_CHARS_MAX)?,
            sampling: sampling(f, max_tokens)?,
            max_tokens,
            max_tokens_name,
            n,
            n_drawn,
            choices_name: (n_drawn > 1).then_some(if best_of.is_some() { "best_of" } else { n_name }),
            stream,
            usage: stream_usage(f, stream)?,
            prompt_log_probs,
            grammar,
            cache_salt: cache_salt(f)?,
            store: f.boolean("store")?.unwrap_or(true),
            return_token_ids: f.boolean("return_token_ids")?.unwrap_or(false),
            return_behavior_logprobs: f.boolean("return_behavior_logprobs")?.unwrap_or(false),
            user: f.text("user", NAME_CHARS_MAX)?,
        })
    }

    /// Of the fields that make an answer long, one that the client sent. With none of them sent an answer is one choice that may
    /// fill the window, which alternatives alone make too long.
    pub(crate) fn length_name(&self) -> &'static str {
        match self.max_tokens {
            Some(_) => self.max_tokens_name,
            None => self.choices_name.unwrap_or("top_logprobs"),
        }
    }
}

/// Where a form is complete, nothing but an end token is left to draw.
fn free_of_form(f: &Fields, has_form: bool) -> Result<(), FieldError> {
    let asks = |name: &str| f.peek(name).is_some_and(|value| !asks_for_nothing(value));
    match ["ignore_eos", "min_tokens"].into_iter().find(|name| has_form && asks(name)) {
        Some(name) => {
            Err(f.error(name, "must not be given with a form of the answer, which says itself where it ends"))
        }
        None => Ok(()),
    }
}

fn sampling(f: &mut Fields, max_tokens: Option<u32>) -> Result<SamplingParams, FieldError> {
    let default = SamplingParams::default();
    Ok(SamplingParams {
        temperature: real(f, "temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        // vLLM's clients turn top-k off with -1, llama-server's with 0.
        top_k: f.integer("top_k", -1..=i64::from(i32::MAX))?.map_or(0, |k| u32::try_from(k).unwrap_or(0)),
        // OpenAI allows 0, which leaves the most probable token only.
        top_p: real(f, "top_p", 0.0..=1.0)?.unwrap_or(default.top_p).max(f32::MIN_POSITIVE),
        min_p: real(f, "min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        presence_penalty: real(f, "presence_penalty", -2.0..=2.0)?.unwrap_or(default.presence_penalty),
        frequency_penalty: real(f, "frequency_penalty", -2.0..=2.0)?.unwrap_or(default.frequency_penalty),
        repetition_penalty: real(f, "repetition_penalty", 0.01..=10.0)?.unwrap_or(default.repetition_penalty),
        logit_bias: logit_bias(f)?,
        seed: seed(f)?,
        max_tokens: max_tokens.unwrap_or(default.max_tokens),
        constrained: default.constrained,
        min_tokens: f.count("min_tokens", 0..=i32::MAX as u32)?.unwrap_or(0),
        stop: stop(f)?,
        stop_token_ids: stop_token_ids(f)?,
        ignore_eos: f.boolean("ignore_eos")?.unwrap_or(false),
    })
}

fn real(f: &mut Fields, name: &str, range: std::ops::RangeInclusive<f64>) -> Result<Option<f32>, FieldError> {
    Ok(f.number(name, range)?.map(|x| x as f32))
}

/// OpenAI's seed is a signed 64-bit integer; ours any 64 bits, so both signed and unsigned ones pass. But -1, which vLLM's and
/// llama-server's clients send for none: whoever asks for another answer each time must not get the same one.
fn seed(f: &mut Fields) -> Result<Option<u64>, FieldError> {
    let Some(value) = f.take("seed") else {
        return Ok(None);
    };
    let signed = value.as_number().and_then(as_integer);
    match value.as_u64().or(signed.map(i64::cast_unsigned)) {
        Some(_) if signed == Some(-1) => Ok(None),
        Some(seed) => Ok(Some(seed)),
        None => Err(f.error("seed", "must be a 64-bit integer")),
    }
}

fn stop(f: &mut Fields) -> Result<Vec<String>, FieldError> {
    let stop = f.texts("stop", STOP_MAX)?.unwrap_or_default();
    match stop.iter().any(|text| text.is_empty() || !is_within(text, STOP_CHARS_MAX)) {
        true => Err(f.error("stop", &format!("must hold texts of 1..={STOP_CHARS_MAX} characters"))),
        false => Ok(stop),
    }
}

fn stop_token_ids(f: &mut Fields) -> Result<Vec<TokenId>, FieldError> {
    let list = f.list("stop_token_ids", STOP_TOKENS_MAX)?.unwrap_or_default();
    list.iter()
        .map(token_id)
        .collect::<Option<_>>()
        .ok_or_else(|| f.error("stop_token_ids", "must hold token ids only"))
}

fn logit_bias(f: &mut Fields) -> Result<Vec<(TokenId, f32)>, FieldError> {
    let map = match f.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            let rule = format!("must be an object of token ids and numbers, not {}", kind(&other));
            return Err(f.error("logit_bias", &rule));
        }
    };
    if map.len() > LOGIT_BIAS_MAX {
        return Err(f.error("logit_bias", &format!("must have at most {LOGIT_BIAS_MAX} entries")));
    }
    let mut bias = BTreeMap::new();
    for (key, value) in &map {
        let is_plain = key.bytes().all(|byte| byte.is_ascii_digit());
        let id = key.parse::<u32>().ok().filter(|id| is_plain && *id <= i32::MAX as u32);
        let id = id.ok_or_else(|| f.error("logit_bias", &format!("has the key {key:?}, which is no token id")))?;
        let value = value.as_f64().filter(|x| (-100.0..=100.0).contains(x));
        let value =
            value.ok_or_else(|| f.error("logit_bias", &format!("must give token {id} a number in -100..=100")))?;
        bias.insert(TokenId(id), value as f32);
    }
    Ok(bias.into_iter().collect())
}

/// One token id; whether the vocabulary has it is for the engine's vocabulary to say.
pub(crate) fn token_id(value: &Value) -> Option<TokenId> {
    let id = value.as_number().and_then(as_integer)?;
    u32::try_from(id).ok().filter(|id| *id <= i32::MAX as u32).map(TokenId)
}

/// vLLM refuses an empty salt too: it would look like protection and be none.
fn cache_salt(f: &mut Fields) -> Result<Option<String>, FieldError> {
    let salt = f.text("cache_salt", NAME_CHARS_MAX)?;
    match salt.as_deref() {
        Some("") => Err(f.error("cache_salt", "must not be empty")),
        _ => Ok(salt),
    }
}

fn stream_usage(f: &mut Fields, stream: bool) -> Result<StreamUsage, FieldError> {
    let Some(value) = f.take("stream_options") else {
        return Ok(StreamUsage::Untold);
    };
    if !stream {
        return Err(f.error("stream_options", "is only allowed when `stream` is true"));
    }
    let mut options = Fields::of(value, "stream_options")?;
    let at_the_end = options.boolean("include_usage")?.unwrap_or(false);
    let in_every_chunk = options.boolean("continuous_usage_stats")?.unwrap_or(false);
    Ok(match (at_the_end, in_every_chunk) {
        // As vLLM: the second field adds to the first and says nothing without it.
        (false, _) => StreamUsage::Untold,
        (true, false) => StreamUsage::Last,
        (true, true) => StreamUsage::EveryChunk,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(json: &str) -> Result<Generation, FieldError> {
        Generation::take(&mut Fields::parse(json.as_bytes())?, &["max_tokens"], 0)
    }

    #[test]
    fn wrong_fields_are_named() {
        let cases = [
            ("temperature", r#"{"temperature":2.1}"#),
            ("temperature", r#"{"temperature":"hot"}"#),
            ("top_p", r#"{"top_p":-1}"#),
            ("top_k", r#"{"top_k":-5}"#),
            ("frequency_penalty", r#"{"frequency_penalty":2.1}"#),
            ("seed", r#"{"seed":1.5}"#),
            ("seed", r#"{"seed":18446744073709551616}"#),
            ("stop", r#"{"stop":["1","2","3","4","5"]}"#),
            ("stop", r#"{"stop":[""]}"#),
            ("stop", r#"{"stop":5}"#),
            ("n", r#"{"n":0}"#),
            ("best_of", r#"{"best_of":0}"#),
            ("best_of", r#"{"best_of":1,"n":2}"#),
            ("best_of", r#"{"best_of":129}"#),
            ("best_of", r#"{"best_of":3,"n":2,"stream":true}"#),
            ("logit_bias", r#"{"logit_bias":{"x":1}}"#),
            ("logit_bias", r#"{"logit_bias":{"+5":1}}"#),
            ("logit_bias", r#"{"logit_bias":{"1":1000000000}}"#),
            ("stream", r#"{"stream":"yes"}"#),
            ("stream_options", r#"{"stream_options":{"include_usage":true}}"#),
            (
                "stream_options.continuous_usage_stats",
                r#"{"stream":true,"stream_options":{"continuous_usage_stats":1}}"#,
            ),
            ("n_cmpl", r#"{"n_cmpl":129}"#),
            ("best_of", r#"{"best_of":1,"n_cmpl":2}"#),
            ("n_predict", r#"{"n_predict":5}"#),
            ("response_format.type", r#"{"response_format":{"type":"yaml"}}"#),
            ("stop_token_ids", r#"{"stop_token_ids":[-1]}"#),
            ("ignore_eos", r#"{"guided_regex":"a","ignore_eos":true}"#),
            ("min_tokens", r#"{"guided_regex":"a","min_tokens":1}"#),
            ("cache_salt", r#"{"cache_salt":""}"#),
            ("cache_salt", r#"{"cache_salt":7}"#),
            ("prompt_logprobs", r#"{"prompt_logprobs":-1}"#),
            ("prompt_logprobs", r#"{"prompt_logprobs":21}"#),
            ("prompt_logprobs", r#"{"prompt_logprobs":true}"#),
            ("prompt_logprobs", r#"{"prompt_logprobs":0,"stream":true}"#),
        ];
        for (param, json) in cases {
            let error = take(json).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }

    #[test]
    fn seeds_are_any_64_bits_and_minus_one_is_none() {
        let seed = |json: &str| take(json).unwrap_or_else(|e| panic!("{json}: {e:?}")).sampling.seed;
        assert_eq!([seed(r#"{"seed":-1}"#), seed(r#"{"seed":null}"#), seed("{}")], [None; 3]);
        assert_eq!(seed(r#"{"seed":-2}"#), Some(u64::MAX - 1));
        assert_eq!([seed(r#"{"seed":0}"#), seed(r#"{"seed":18446744073709551615}"#)], [Some(0), Some(u64::MAX)]);
    }

    #[test]
    fn llama_servers_name_of_n_counts() {
        let n = |json: &str| take(json).unwrap_or_else(|e| panic!("{json}: {e:?}")).n;
        assert_eq!([n(r#"{"n_cmpl":3}"#), n(r#"{"n":2,"n_cmpl":3}"#), n(r#"{"n":2,"n_cmpl":null}"#)], [3, 3, 2]);
    }

    #[test]
    fn a_stream_tells_usage_as_it_is_asked() {
        let usage = |options: &str| {
            let g = take(&format!(r#"{{"stream":true,"stream_options":{options}}}"#));
            g.unwrap_or_else(|e| panic!("{options}: {e:?}")).usage
        };
        assert_eq!(usage("null"), StreamUsage::Untold);
        assert_eq!(usage(r#"{"include_usage":true}"#), StreamUsage::Last);
        // What guidellm and vLLM's benchmarks send.
        assert_eq!(usage(r#"{"include_usage":true,"continuous_usage_stats":true}"#), StreamUsage::EveryChunk);
        assert_eq!(usage(r#"{"continuous_usage_stats":true}"#), StreamUsage::Untold);
    }

    #[test]
    fn what_makes_an_answer_long_has_the_name_that_was_sent() {
        let names = |json: &str| {
            let f = &mut Fields::parse(json.as_bytes()).expect("JSON");
            let g = Generation::take(f, &["max_completion_tokens", "max_tokens"], 0);
            let g = g.unwrap_or_else(|e| panic!("{json}: {e:?}"));
            (g.choices_name, g.length_name())
        };
        assert_eq!(names(r#"{"n":128}"#), (Some("n"), "n"));
        assert_eq!(names(r#"{"best_of":128}"#), (Some("best_of"), "best_of"));
        assert_eq!(names(r#"{"n":2,"best_of":128,"max_tokens":1}"#), (Some("best_of"), "max_tokens"));
        assert_eq!(names(r#"{"n":128,"max_completion_tokens":5}"#), (Some("n"), "max_completion_tokens"));
        assert_eq!(names(r#"{"n":1,"top_logprobs":20}"#), (None, "top_logprobs"));
        assert_eq!(names(r#"{"n_cmpl":128,"n":2}"#), (Some("n_cmpl"), "n_cmpl"));
    }

    #[test]
    fn what_clients_send_by_habit_passes() {
        let g = take(
            r#"{"top_k":-1,"top_p":0,"seed":-1.0,"stop":null,"best_of":1,"n":1.0,"unknown":{},"logit_bias":{"5":-100},
                "skip_special_tokens":true,"repeat_penalty":1.0,"mirostat":0,"stream_options":null}"#,
        )
        .unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((g.sampling.top_k, g.sampling.seed), (0, None));
        assert!(g.sampling.top_p > 0.0);
        assert_eq!(g.sampling.logit_bias, [(TokenId(5), -100.0)]);
        assert!(g.store && !g.stream);
    }
}
