//! Bodies that no client library would send.

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

#[path = "../../../../tests/mutant.rs"]
mod mutant;

/// Bodies that lead through every parser.
const SEEDS: [&str; 14] = [
    r#"{"model":"policy","prompt":["a",[1,2]],"max_tokens":5,"temperature":0.5,"top_p":0.9,"n":2,"stop":["x"],"seed":-1,
        "logit_bias":{"5":-100},"logprobs":3,"stream":true,"stream_options":{"include_usage":true},"user":"u"}"#,
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
    "{\"text\": \"a\"}\n{\"text\": \"b\"}\n",
];

const WORDS: [&str; 24] = [
    "null",
    "true",
    "-1",
    "1e999",
    "1e-400",
    "NaN",
    "[]",
    "{}",
    "\"\"",
    "[[",
    "]]",
    "{\"",
    "\\ud800",
    "\\u0000",
    "4294967296",
    "18446744073709551616",
    "9223372036854775808",
    ",\"n\":",
    ",\"max_tokens\":",
    ",\"logit_bias\":",
    ",\"prompt\":",
    ",\"messages\":",
    ",\"grammar\":\"start: /a/\"",
    ",\"stop\":[\"\"]",
];

/// Goal: whatever a client sends, every parser answers with a value or with an error that says something. Method: mutants of
/// bodies that lead through all of them, each given to all.
#[test]
fn fuzz_wire() {
    fn said<T: Debug>(kind: &str, parsed: Result<T, FieldError>) -> String {
        match parsed {
            // What was parsed can be shown, whatever it holds.
            Ok(value) => format!("{kind} {}", format!("{value:?}").len().min(1)),
            Err(FieldError { param, message, code }) => {
                assert!(
                    !message.is_empty() && param.as_deref() != Some("") && !code.is_empty(),
                    "{kind}: {param:?} {message:?}"
                );
                format!("{param:?} {message}")
            }
        }
    }
    let seeds = SEEDS.map(|seed| seed.as_bytes().to_vec());
    mutant::fuzz("wire", &seeds, &WORDS, 5_000, |b| {
        let parsed = [
            said("chat", ChatRequest::parse(b).map(drop)),
            said("completion", CompletionRequest::parse(b).map(drop)),
            said("feedback", feedback::parse(b, 0)),
            said("load", LoadRequest::parse(b)),
            said("activation", policy::expected_live(b)),
            said("rewards", RewardRequest::parse(b).map(drop)),
            said("get_reward", GetRewardRequest::parse(b).map(drop)),
            said("score", ScorePairsRequest::parse(b).map(drop)),
            said("classify", WholeRequest::classify(b).map(drop)),
            said("pooling", WholeRequest::pooling(b).map(drop)),
            said("rerank", RerankRequest::parse(b).map(drop)),
            said("predict", PredictRequest::parse(b).map(drop)),
            said("tokenize", TokenizeRequest::parse(b).map(drop)),
            said("detokenize", DetokenizeRequest::parse(b).map(drop)),
            said("example", Record::<Example>::example(b).map(drop)),
            said("prompt", Record::<PromptText>::prompt(b).map(drop)),
            said("comparison", Record::<Comparison>::comparison(b).map(drop)),
        ];
        let text = documents(&String::from_utf8_lossy(b)).map(|found| found.len().min(2));
        // One parser's answer at a time tells answers apart; all together would make every mutant a new one.
        format!("{} {text:?}", parsed[b.len() % parsed.len()])
    });
}
