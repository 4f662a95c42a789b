//! `POST /v1/completions`, and what it shares with chat.

use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, SchemaType, Type},
};

use super::{
    rules::{any_of, generation, one_structure, ruled, when, with, yes},
    unions::{
        BiasBody, ChoicesBody, PromptBody, ResponseFormatBody, SchemaBody, SeedBody, StopBody, StopTokensBody, TrueBody,
    },
};

/// How to draw and how to answer; on both generation routes.
#[derive(Serialize, ToSchema)]
#[schema(as = GenerationFields)]
pub(crate) struct SharedBody {
    /// Which weights: `policy` (the live ones, also when absent or empty), `policy@N`, `sft`.
    #[schema(max_length = 512, example = "policy")]
    model: Option<String>,
    /// Choices for each prompt.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    n: Option<i64>,
    /// The same, as llama-server calls it; of two, this one counts.
    #[schema(minimum = 1, maximum = 128)]
    n_cmpl: Option<i64>,
    /// Choices to draw, of which the best `n` by mean log-probability are told; with `stream` it must equal `n`.
    #[schema(minimum = 1, maximum = 128)]
    best_of: Option<i64>,
    /// Server-sent events instead of one body.
    #[schema(default = false)]
    stream: Option<bool>,
    /// Only with `stream`.
    stream_options: Option<StreamOptions>,
    /// 1 is the model's own distribution; below 0.00001 the most probable token is taken, which the last bits of logits may
    /// decide: see `seed`.
    #[schema(minimum = 0, maximum = 2, default = 1)]
    temperature: Option<f64>,
    /// The smallest set of tokens with this probability mass.
    #[schema(minimum = 0, maximum = 1, default = 1)]
    top_p: Option<f64>,
    /// So many of the most probable tokens; 0 and -1 are all.
    #[schema(minimum = -1, maximum = 2147483647, default = 0)]
    top_k: Option<i64>,
    /// Tokens at least this times as probable as the most probable one.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    min_p: Option<f64>,
    /// Off the logit of every token that was drawn.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    presence_penalty: Option<f64>,
    /// Off the logit of a token for each time that it was drawn.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    frequency_penalty: Option<f64>,
    /// Divides the logits of tokens that were seen.
    #[schema(minimum = 0.01, maximum = 10, default = 1)]
    repetition_penalty: Option<f64>,
    /// Token ids and what is added to their logits.
    logit_bias: Option<BiasBody>,
    /// The same seed gives the same answer of a version, and so does `temperature` 0, whatever else is running. Where llama.cpp
    /// computes (`policy.backend`), the last bits of logits depend on that and can turn a draw, unless `policy.deterministic` is
    /// set. -1 is no seed, as in vLLM and llama-server: another answer each time.
    seed: Option<SeedBody>,
    /// Tokens before which the end token is not drawn.
    #[schema(minimum = 0, maximum = 2147483647, default = 0)]
    min_tokens: Option<i64>,
    /// Texts that end a choice; they are not part of it.
    stop: Option<StopBody>,
    /// Tokens that end a choice.
    stop_token_ids: Option<StopTokensBody>,
    /// Never draw the end token, so that an answer has as many tokens as it may.
    #[schema(default = false)]
    ignore_eos: Option<bool>,
    /// What form the answer has. Of this and the next seven fields at most one may be given.
    response_format: Option<ResponseFormatBody>,
    /// A JSON schema that the answer must fit, or the text of one (vLLM).
    guided_json: Option<SchemaBody>,
    /// A regular expression that the whole answer must match (vLLM).
    #[schema(min_length = 1)]
    guided_regex: Option<String>,
    /// Texts of which the answer must be one (vLLM).
    guided_choice: Option<ChoicesBody>,
    /// A grammar in Lark's syntax (vLLM's guidance backend).
    guided_grammar: Option<String>,
    /// The same four under vLLM's later names.
    structured_outputs: Option<StructuredBody>,
    /// As `guided_json` (llama-server).
    json_schema: Option<SchemaBody>,
    /// As `guided_grammar`.
    grammar: Option<String>,
    /// Adds `prompt_logprobs`: the log-probability of each prompt token with so many alternatives. Not with `stream`.
    #[schema(minimum = 0, maximum = 20)]
    prompt_logprobs: Option<i64>,
    /// Only requests with the same salt share the computed prompt.
    #[schema(min_length = 1, max_length = 512)]
    cache_salt: Option<String>,
    /// Only `true`.
    add_generation_prompt: Option<TrueBody>,
    /// Whether the exchange goes into the rollout log, from which the policy learns.
    #[schema(default = true)]
    store: Option<bool>,
    /// Adds `prompt_token_ids` and each choice's `token_ids`.
    #[schema(default = false)]
    return_token_ids: Option<bool>,
    /// Adds each token's log-probability in the distribution really drawn from.
    #[schema(default = false)]
    return_behavior_logprobs: Option<bool>,
    /// Whom the exchange is counted for.
    #[schema(max_length = 512)]
    user: Option<String>,
}

/// Of a stream.
#[derive(Serialize, ToSchema)]
struct StreamOptions {
    /// A last chunk with the token counts.
    include_usage: Option<bool>,
    /// With `include_usage`: the counts so far, of a chunk's own choice, in every chunk before (vLLM).
    continuous_usage_stats: Option<bool>,
}

ruled! {
    /// One of four forms at most.
    StructuredBody, "StructuredOutputs": StructuredOutputs, [one_structure()];
}

/// One of four forms at most.
#[derive(Serialize, ToSchema)]
struct StructuredOutputs {
    /// A JSON schema, or the text of one.
    json: Option<SchemaBody>,
    /// A regular expression.
    #[schema(min_length = 1)]
    regex: Option<String>,
    /// Texts of which the answer must be one.
    choice: Option<ChoicesBody>,
    /// A grammar in Lark's syntax.
    grammar: Option<String>,
}

ruled! {
    /// A completion with the rules between its fields.
    pub(crate) CompletionBody, "CompletionRequest": CompletionFields, {
        let drawn = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Integer, Type::Null])).minimum(Some(1));
        let scored = ObjectBuilder::new().schema_type(Type::Integer);
        let none_drawn = any_of([when("max_tokens", drawn), with("echo", yes()), with("prompt_logprobs", scored)]);
        generation().into_iter().chain([none_drawn])
    };
}

/// Continue prompts.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"prompt": "Write three adjectives to describe the ocean.\n", "max_tokens": 32}))]
struct CompletionFields {
    /// Texts are taken as plain text: what spells a control token stays text.
    prompt: PromptBody,
    /// Repeat the prompt in front of the response.
    #[schema(default = false)]
    echo: Option<bool>,
    /// So many alternatives for each token; 0 reports the drawn token only.
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<i64>,
    /// Tokens drawn at most; 0 only with `echo` or `prompt_logprobs`.
    #[schema(minimum = 0, maximum = 2147483647, default = 16)]
    max_tokens: Option<i64>,
    #[serde(flatten)]
    shared: SharedBody,
}
