//! Every route that scores.

use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, Type},
};

use super::{
    MessageBody,
    rules::{any_of, exactly_one, null, ruled, with},
    unions::{PredictInputs, PromptBody, PromptsBody, RewardInputs, SideBody, TextsBody, TokensKept},
};

ruled! {
    /// A response to a prompt, or a conversation.
    pub(super) RewardInputBody, "RewardInput": RewardInputFields, {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let plain = with("prompt", text()).property("completion", text()).required("completion").property("messages", null());
        let chat = with("messages", ObjectBuilder::new().schema_type(Type::Array));
        [any_of([plain, chat.property("prompt", null()).property("completion", null())])]
    };
    /// Prompts and responses.
    pub(crate) ScorePairsBody, "ScoreRequest": ScorePairsFields, [
        exactly_one(&["text_1", "queries", "data_1"]),
        exactly_one(&["text_2", "documents", "data_2"]),
    ];
    /// Texts or a conversation.
    pub(crate) WholeBody, "ClassifyRequest": WholeFields, [exactly_one(&["input", "messages"])];
    /// A prompt and its responses.
    pub(crate) RerankBody, "RerankRequest": RerankFields, [exactly_one(&["documents", "texts"])];
}

/// What all scoring routes share.
#[derive(Serialize, ToSchema)]
#[schema(as = ScoringFields)]
pub(crate) struct ScoringBody {
    /// `reward` (also when absent or empty), or `reward@…` as `/v1/models` lists it, for exactly that version.
    #[schema(max_length = 512, example = "reward")]
    model: Option<String>,
    /// Cut an over-long input to what the reward model reads; otherwise it is a 400.
    #[schema(default = false)]
    truncate: Option<bool>,
    /// Which side is cut off: the left one unless told, because the score is read at the end.
    truncation_direction: Option<SideBody>,
    /// The same, as vLLM calls it.
    truncation_side: Option<SideBody>,
    /// Cut to so many tokens; -1 is as many as the reward model reads.
    truncate_prompt_tokens: Option<TokensKept>,
    /// Map scores through 1 / (1 + e^-x). Raw scores unless told.
    #[schema(default = false)]
    use_activation: Option<bool>,
    /// The same, as older clients call it.
    activation: Option<bool>,
    /// The opposite, as TEI calls it.
    #[schema(default = true)]
    raw_scores: Option<bool>,
}

/// Judge responses, or conversations by their last message.
#[derive(Serialize, ToSchema)]
#[schema(as = RewardRequest, example = json!({"input": [{"prompt": "What color is the sky?", "completion": "Blue."}]}))]
pub(crate) struct RewardsBody {
    /// What is judged.
    input: RewardInputs,
    #[serde(flatten)]
    shared: ScoringBody,
}

/// A prompt with its completion, or a conversation that ends with the assistant's answer.
#[derive(Serialize, ToSchema)]
struct RewardInputFields {
    /// With `completion`.
    prompt: Option<String>,
    /// With `prompt`.
    completion: Option<String>,
    /// Instead of both; it ends with the assistant's answer.
    #[schema(min_items = 1, max_items = 4096)]
    messages: Option<Vec<MessageBody>>,
}

/// OpenRLHF's remote reward model: whole texts with their special tokens spelled out.
#[derive(Serialize, ToSchema)]
#[schema(as = GetRewardRequest)]
pub(crate) struct GetRewardBody {
    /// Prompt and response as one text.
    query: TextsBody,
    /// The prompts alone; none, or as many as queries.
    prompts: Option<PromptsBody>,
    #[serde(flatten)]
    shared: ScoringBody,
}

/// One first text with each second one, or as many of both. The pairs of names are synonyms; `text_1` and `text_2` here.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"text_1": "What color is the sky?", "text_2": ["Blue.", "Green."]}))]
struct ScorePairsFields {
    /// Prompts.
    text_1: Option<TextsBody>,
    /// Responses.
    text_2: Option<TextsBody>,
    /// Prompts.
    queries: Option<TextsBody>,
    /// Responses.
    documents: Option<TextsBody>,
    /// Prompts.
    data_1: Option<TextsBody>,
    /// Responses.
    data_2: Option<TextsBody>,
    #[serde(flatten)]
    shared: ScoringBody,
}

/// Whole texts, prompt and response together.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"input": "What color is the sky?\nBlue."}))]
struct WholeFields {
    /// Texts with their special tokens spelled out, or token ids; nothing is added at the end.
    input: Option<PromptBody>,
    /// Instead: a conversation that ends with the assistant's answer.
    #[schema(min_items = 1, max_items = 4096)]
    messages: Option<Vec<MessageBody>>,
    /// Begin with the token that begins a prompt, where the model wants one.
    #[schema(default = true)]
    add_special_tokens: Option<bool>,
    #[serde(flatten)]
    shared: ScoringBody,
}

/// How numbers are written.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
}

/// What is pooled for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Task {
    Score,
    Classify,
    Reward,
}

/// As `/classify`.
#[derive(Serialize, ToSchema)]
#[schema(as = PoolingRequest)]
pub(crate) struct PoolingBody {
    /// Numbers as numbers.
    encoding_format: Option<Encoding>,
    /// This is a reward model: all three are the same.
    task: Option<Task>,
    #[serde(flatten)]
    whole: WholeBody,
}

/// A document as a text, or as Jina's object.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum DocumentBody {
    /// The text.
    Text(String),
    /// An object that holds it.
    Object {
        /// The text.
        text: String,
    },
}

/// Responses to one prompt, to be put in order.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"query": "What color is the sky?", "documents": ["Green.", "Blue."]}))]
struct RerankFields {
    /// The prompt.
    query: String,
    /// The responses; the answer has Jina's shape.
    #[schema(min_items = 1, max_items = 4096)]
    documents: Option<Vec<DocumentBody>>,
    /// The responses; the answer has TEI's shape.
    #[schema(min_items = 1, max_items = 4096)]
    texts: Option<Vec<DocumentBody>>,
    /// So many of the best; 0 is all.
    #[schema(minimum = 0, maximum = 2147483647)]
    top_n: Option<i64>,
    /// Repeat the texts.
    #[schema(default = false)]
    return_documents: Option<bool>,
    /// The same, as TEI calls it.
    return_text: Option<bool>,
    #[serde(flatten)]
    shared: ScoringBody,
}

/// TEI's predictions.
#[derive(Serialize, ToSchema)]
#[schema(as = PredictRequest, example = json!({"inputs": [["What color is the sky?", "Blue."]]}))]
pub(crate) struct PredictBody {
    /// A whole text, a pair of prompt and response, or a list of such.
    inputs: PredictInputs,
    #[serde(flatten)]
    shared: ScoringBody,
}
