//! Tokens, feedback and versions.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    MessageBody,
    rules::{any_of, at_least_one, exactly_one, null, ruled, when, with, yes},
    unions::{TokensBody, TrueBody},
};

ruled! {
    /// A text or a conversation.
    pub(crate) TokenizeBody, "TokenizeRequest": TokenizeFields, [exactly_one(&["prompt", "content", "messages"])];
    /// Words about a response.
    pub(crate) FeedbackBody, "FeedbackRequest": FeedbackFields, [at_least_one(&["score", "label", "edit", "comment"])];
    /// A file, and what is to become of it.
    pub(crate) LoadBody, "LoadRequest": LoadFields, [any_of([when("expected_live", null()), with("promote", yes())])];
}

/// Cut a text or a conversation into tokens.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"prompt": "the ocean"}))]
struct TokenizeFields {
    /// Any version of the policy; all share one vocabulary.
    #[schema(max_length = 512)]
    model: Option<String>,
    /// A text.
    prompt: Option<String>,
    /// The same, as llama-server calls it.
    content: Option<String>,
    /// Instead: a conversation, through the model's template.
    #[schema(min_items = 1, max_items = 4096)]
    messages: Option<Vec<MessageBody>>,
    /// Begin a text with the token that begins a prompt, where the model wants one. By default true for `prompt`, as in vLLM,
    /// and false for `content`, as in llama-server.
    add_special_tokens: Option<bool>,
    /// The same, as llama-server calls it.
    add_special: Option<bool>,
    /// What spells a control token in a text is one; generation never does that.
    #[schema(default = true)]
    parse_special: Option<bool>,
    /// Only `true`.
    add_generation_prompt: Option<TrueBody>,
    /// The text of each token too.
    #[schema(default = false)]
    return_token_strs: Option<bool>,
    /// Each token as an object of its id and its piece, a text, or a list of bytes where it is none (llama-server).
    #[schema(default = false)]
    with_pieces: Option<bool>,
}

/// Turn token ids into text.
#[derive(Serialize, ToSchema)]
#[schema(as = DetokenizeRequest, example = json!({"tokens": [1, 2]}))]
pub(crate) struct DetokenizeBody {
    /// Any version of the policy; all share one vocabulary.
    #[schema(max_length = 512)]
    model: Option<String>,
    /// Ids of the vocabulary.
    tokens: TokensBody,
}

/// What a person says about a response; at least one of `score`, `label`, `edit`, `comment`. A `score`, a `label` or
/// both replace what the same user said with either before; an `edit` or a `comment` alone leaves both.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": "cmpl-0123456789abcdef", "label": "up"}))]
struct FeedbackFields {
    /// The `id` of the answer.
    #[schema(max_length = 512)]
    id: String,
    /// Which choice.
    #[schema(minimum = 0, maximum = 131072, default = 0)]
    index: Option<i64>,
    /// Who says it; one word each.
    #[schema(max_length = 512)]
    user: Option<String>,
    /// On the reward model's scale: mean 0, deviation 1. Beside a `label`, the score counts. Without one, it takes an
    /// earlier `label` away.
    #[schema(minimum = -1000000, maximum = 1000000)]
    score: Option<f64>,
    /// A thumb: worth +1 or -1 where no `score` is beside it. Without one, it takes an earlier `score` away.
    label: Option<Thumb>,
    /// A better text.
    #[schema(max_length = 65536)]
    edit: Option<String>,
    /// For people.
    #[schema(max_length = 65536)]
    comment: Option<String>,
}

/// Which way.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Thumb {
    Up,
    Down,
}

/// Make a model file a version.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"path": "tuned.gguf", "promote": true}))]
struct LoadFields {
    /// A GGUF or safetensors file inside `daemon.import_dir`, relative to it or absolute; no symbolic link is followed.
    #[schema(min_length = 1, max_length = 4096)]
    path: String,
    /// Make it live when it passes.
    #[schema(default = false)]
    promote: Option<bool>,
    /// With `promote`: only when this version is live then; otherwise 409, and it is retained.
    #[schema(minimum = 0)]
    expected_live: Option<i64>,
}

/// Make a version live.
#[derive(Serialize, ToSchema)]
#[schema(as = ActivationRequest)]
pub(crate) struct ActivationBody {
    /// Only when this version is live now; otherwise 409.
    #[schema(minimum = 0)]
    expected_live: Option<i64>,
}

/// Have another reward model judge.
#[derive(Serialize, ToSchema)]
#[schema(as = RewardModelRequest)]
pub(crate) struct RewardModelBody {
    /// A file inside `reward.folder`; without it the configured file is read again.
    #[schema(min_length = 1, max_length = 4096)]
    path: Option<String>,
    /// Only when this model judges now, as scores name it; otherwise 409.
    #[schema(max_length = 4096)]
    expected: Option<String>,
}

/// Forget a user.
#[derive(Serialize, ToSchema)]
#[schema(as = ForgetRequest)]
pub(crate) struct ForgetBody {
    /// As the requests named it.
    #[schema(min_length = 1, max_length = 512)]
    user: String,
}
