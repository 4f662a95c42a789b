//! What the fuzzer of the wire types does with an input; compiled for tests and under `cfg(fuzzing)` only.

use std::fmt::Debug;

use super::{
    chat::ChatRequest,
    completion::CompletionRequest,
    dataset::{Comparison, Example, PromptText, Record},
    feedback,
    fields::FieldError,
    policy::{self, LoadRequest},
    rerank::{PredictRequest, RerankRequest},
    reward::{GetRewardRequest, RewardRequest},
    score::{ScorePairsRequest, WholeRequest},
    text::documents,
    tokens::{DetokenizeRequest, TokenizeRequest},
};

/// Bodies that lead through every parser.
const SEEDS: [&str; 17] = [
    r#"{"model":"policy","prompt":["a",[1,2]],"max_tokens":5,"temperature":0.5,"top_p":0.9,"n":2,"stop":["x"],"seed":-1,
        "logit_bias":{"5":-100},"logprobs":3,"stream":true,"stream_options":{"include_usage":true,
        "continuous_usage_stats":true},"user":"u"}"#,
    r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"a"}]}],
        "max_completion_tokens":7,"top_logprobs":2,"logprobs":true,"response_format":{"type":"json_schema",
        "json_schema":{"schema":{"type":"object","properties":{"a":{"type":"integer"}}}}}}"#,
    r#"{"prompt":"a","guided_regex":"[a-z]+","min_p":0.1,"top_k":5,"min_tokens":1,"stop_token_ids":[3],"best_of":2}"#,
    r#"{"prompt":"a","structured_outputs":{"json":{}},"echo":true,"prompt_logprobs":1,"cache_salt":"s","store":false}"#,
    r#"{"id":"cmpl-1","index":2,"user":"u","score":1.5,"label":"up","edit":"e","comment":"c"}"#,
    r#"{"path":"a.gguf","promote":true,"expected_live":3}"#,
    r#"{"input":[{"prompt":"a","completion":"b"},{"messages":[{"role":"assistant","content":"x"}]}]}"#,
    r#"{"query":["a","b"],"prompts":["p","q"],"labels":[1]}"#,
    r#"{"data_1":"a","data_2":["b","c"],"truncate_prompt_tokens":7.0,"truncation_side":"Left"}"#,
    r#"{"query":"a","documents":["b",{"text":"c"}],"top_n":1,"return_text":true,"raw_scores":true}"#,
    r#"{"inputs":[["a","b"],["c"]],"raw_scores":true,"truncate":true}"#,
    r#"{"tokens":[1,2,4294967295],"content":"a","add_special":true,"return_token_strs":true}"#,
    r#"{"prompt":"p","responses":["a","b"],"ranks":[1,2],"chosen":"c","rejected":"d","completion":"e","user":"u"}"#,
    r#"{"prompt":"p","chosen":"a","rejected":"b","worker":"w","margin":0.5,"strength":"slightly"}"#,
    r#"{"input":["a","b"],"model":"reward"}"#,
    r#"{"tokens":[1,2]}"#,
    "{\"text\": \"a\"}\n{\"text\": \"b\"}\n",
];

/// Parsers that are given every input.
#[cfg(test)]
const N_PARSERS: usize = 18;

/// Inputs to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    SEEDS.map(|seed| seed.as_bytes().to_vec()).into()
}

/// Gives the input to every parser of a body or of a line of a file; which of them read it.
///
/// # Panics
/// When a refusal says nothing, or when what was parsed cannot be shown.
pub fn target(b: &[u8]) -> Vec<&'static str> {
    let read = [
        check("chat", ChatRequest::parse(b).map(drop)),
        check("completion", CompletionRequest::parse(b).map(drop)),
        check("feedback", feedback::parse(b, 0)),
        check("load", LoadRequest::parse(b)),
        check("activation", policy::expected_live(b)),
        check("rewards", RewardRequest::parse(b).map(drop)),
        check("get_reward", GetRewardRequest::parse(b).map(drop)),
        check("score", ScorePairsRequest::parse(b).map(drop)),
        check("classify", WholeRequest::classify(b).map(drop)),
        check("pooling", WholeRequest::pooling(b).map(drop)),
        check("rerank", RerankRequest::parse(b).map(drop)),
        check("predict", PredictRequest::parse(b).map(drop)),
        check("tokenize", TokenizeRequest::parse(b).map(drop)),
        check("detokenize", DetokenizeRequest::parse(b).map(drop)),
        check("example", Record::<Example>::example(b).map(drop)),
        check("prompt", Record::<PromptText>::prompt(b).map(drop)),
        check("comparison", Record::<Comparison>::comparison(b).map(drop)),
        documents(&String::from_utf8_lossy(b)).ok().map(|_| "documents"),
    ];
    read.into_iter().flatten().collect()
}

fn check<T: Debug>(kind: &'static str, parsed: Result<T, FieldError>) -> Option<&'static str> {
    match parsed {
        Ok(value) => {
            assert!(!format!("{value:?}").is_empty());
            Some(kind)
        }
        Err(FieldError { param, message, code }) => {
            let says_something = !message.is_empty() && param.as_deref() != Some("") && !code.is_empty();
            assert!(says_something, "{kind}: {param:?} {message:?}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_lead_through_every_parser() {
        let read: std::collections::BTreeSet<_> = super::seeds().iter().flat_map(|seed| super::target(seed)).collect();
        assert_eq!(read.len(), super::N_PARSERS, "{read:?}");
    }
}
