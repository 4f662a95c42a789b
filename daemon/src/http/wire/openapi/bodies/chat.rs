//! `POST /v1/chat/completions`, and conversations wherever they may be sent.

use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Type},
};

use super::{
    SharedBody,
    rules::{any_of, generation, given, null, ruled, up_to, when, with, yes},
    unions::{ArgumentsBody, ModalitiesBody, NoListBody, NothingBody, ToolChoiceBody},
};

ruled! {
    /// One turn of a conversation.
    pub(crate) MessageBody, "Message": MessageFields, {
        let assistant = || ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["assistant"]));
        let list = || ArrayBuilder::new().max_items(Some(128));
        let or_nothing = |list| AnyOfBuilder::new().item(null()).item(NothingBody::schema()).item(list);
        let none = || or_nothing(list().max_items(Some(0)));
        let said = with("content", given()).property("tool_calls", none()).property("function_call", none());
        let calls = with("tool_calls", list().min_items(Some(1))).property("role", assistant());
        let call = ObjectBuilder::new().schema_type(Type::Object).min_properties(Some(1));
        let call = with("function_call", call).property("tool_calls", or_nothing(list())).property("role", assistant());
        [any_of([said, calls, call])]
    };
}

/// One turn of a conversation.
#[derive(Serialize, ToSchema)]
struct MessageFields {
    /// Who speaks.
    role: Role,
    /// What is said; it may be missing beside calls of tools. Plain text: what spells a control token stays text.
    content: Option<Content>,
    /// Tools that an assistant called earlier: they become lines of its content, `{"name": …, "arguments": …}`.
    tool_calls: Option<ToolCallsBody>,
    /// The same, as OpenAI called it before.
    function_call: Option<LastCallBody>,
}

/// Calls, or what asks for none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ToolCalls)]
enum ToolCallsBody {
    /// At most 128.
    Calls(Vec<ToolCallBody>),
    /// None.
    Nothing(NothingBody),
}

/// A call, or what asks for none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = LastCall)]
enum LastCallBody {
    /// One.
    Call(FunctionCallBody),
    /// None.
    Nothing(NothingBody),
    /// None.
    NoList(NoListBody),
}

/// One call.
#[derive(Serialize, ToSchema)]
#[schema(as = ToolCall)]
struct ToolCallBody {
    /// `function`.
    r#type: Option<ToolKind>,
    /// What was called.
    function: FunctionCallBody,
}

/// The one kind of tool.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ToolKind {
    Function,
}

/// A function and what it was given.
#[derive(Serialize, ToSchema)]
#[schema(as = FunctionCall)]
struct FunctionCallBody {
    /// Its name.
    #[schema(min_length = 1, max_length = 512)]
    name: String,
    /// None is `{}`.
    arguments: Option<ArgumentsBody>,
}

/// Who speaks; `developer` is OpenAI's newer name of `system`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

/// A text, or its parts.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Content {
    /// One text.
    Text(String),
    /// Texts, put together.
    Parts(Vec<Part>),
}

/// A part of a text.
#[derive(Serialize, ToSchema)]
struct Part {
    /// `text`.
    r#type: PartKind,
    /// The text.
    text: String,
}

/// This model reads text only.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PartKind {
    Text,
}

ruled! {
    /// A chat with the rules between its fields.
    pub(crate) ChatBody, "ChatRequest": ChatFields, {
        let top = any_of([when("top_logprobs", up_to(0)), with("logprobs", yes())]);
        generation().into_iter().chain([top])
    };
}

/// Answer a conversation through the model's own template.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "messages": [{"role": "user", "content": "What color is the sky?"}], "max_tokens": 48
}))]
struct ChatFields {
    /// The conversation so far.
    #[schema(min_items = 1, max_items = 4096)]
    messages: Vec<MessageBody>,
    /// OpenAI's newer name of `max_tokens`; of two, this one counts.
    #[schema(minimum = 1, maximum = 2147483647)]
    max_completion_tokens: Option<i64>,
    /// Tokens drawn at most; as many as the window holds unless given.
    #[schema(minimum = 1, maximum = 2147483647)]
    max_tokens: Option<i64>,
    /// Report each token's log-probability.
    #[schema(default = false)]
    logprobs: Option<bool>,
    /// So many alternatives for each token; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<i64>,
    /// Only `none` or `auto`: there are no tools.
    tool_choice: Option<ToolChoiceBody>,
    /// Only `["text"]`.
    modalities: Option<ModalitiesBody>,
    #[serde(flatten)]
    shared: SharedBody,
}
