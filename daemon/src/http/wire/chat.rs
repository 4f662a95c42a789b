//! `POST /v1/chat/completions`.

use policy::chat_template::Message;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    fields::{FieldError, Fields, kind},
    log_probs::ChatLogProbs,
    prompt_log_probs::PromptLogProbs,
    sampling::{Generation, LOG_PROBS_MAX},
    timings::Timings,
    tool_calls, unbuilt,
    usage::Usage,
};

/// Messages in one conversation at most.
const MESSAGES_MAX: usize = 4096;
/// Roles that the contract knows; `developer` is OpenAI's newer name of `system`.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A chat request that is well-formed by itself.
pub(crate) struct ChatRequest {
    /// What completions share.
    pub(crate) generation: Generation,
    /// At least one message.
    pub(crate) messages: Vec<Message>,
    /// Alternatives per token; `None` leaves log-probabilities out.
    pub(crate) log_probs: Option<u32>,
}

impl ChatRequest {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<ChatRequest, FieldError> {
        let mut f = Fields::parse(body)?;
        let messages = messages(&mut f, "messages")?;
        refuse(&mut f)?;
        let generation = Generation::take(&mut f, &["max_completion_tokens", "max_tokens"], 1)?;
        let wanted = f.boolean("logprobs")?.unwrap_or(false);
        let top = f.count("top_logprobs", 0..=LOG_PROBS_MAX)?;
        if top.is_some_and(|top| top > 0) && !wanted {
            return Err(f.error("top_logprobs", "is only allowed when `logprobs` is true"));
        }
        let wanted = wanted || generation.return_behavior_logprobs;
        Ok(ChatRequest { generation, messages, log_probs: wanted.then_some(top.unwrap_or(0)) })
    }
}

fn refuse(f: &mut Fields) -> Result<(), FieldError> {
    unbuilt::refuse_in_chat(f)?;
    f.refuse(&["tools", "functions", "audio", "chat_template_kwargs", "web_search_options", "prediction", "echo"])?;
    f.refuse_but(&["function_call"], |choice| choice == "none" || choice == "auto", "must be \"none\" or \"auto\"")?;
    let choice = f.take("tool_choice");
    if choice.is_some_and(|choice| choice != "none" && choice != "auto") {
        return Err(f.error("tool_choice", "is not supported by this version of honed"));
    }
    let modalities = f.texts("modalities", 8)?.unwrap_or_default();
    match modalities.iter().all(|m| m == "text") {
        true => Ok(()),
        false => Err(f.error("modalities", "must be [\"text\"]: this model reads and writes text only")),
    }
}

/// Takes a conversation; also `/v1/rewards` and `/tokenize` have one.
pub(crate) fn messages(f: &mut Fields, name: &str) -> Result<Vec<Message>, FieldError> {
    let list = f.list(name, MESSAGES_MAX)?.ok_or_else(|| f.error(name, "is required"))?;
    if list.is_empty() {
        return Err(f.error(name, "must not be empty"));
    }
    let path = f.path(name);
    list.into_iter().enumerate().map(|(i, value)| message(value, &format!("{path}[{i}]"))).collect()
}

fn message(value: Value, path: &str) -> Result<Message, FieldError> {
    let mut f = Fields::of(value, path)?;
    let role = f.text("role", 64)?.ok_or_else(|| f.error("role", "is required"))?;
    if !ROLES.contains(&role.as_str()) {
        return Err(f.error("role", &format!("must be one of {}, not {role:?}", ROLES.join(", "))));
    }
    let calls = tool_calls::take(&mut f, &role)?;
    let content = match f.take("content") {
        Some(content) => text(content, &f)?,
        // OpenAI's own answers have none beside calls.
        None if !calls.is_empty() => String::new(),
        None => return Err(f.error("content", "is required")),
    };
    let said = Some(content).filter(|content| calls.is_empty() || !content.is_empty());
    let content = said.into_iter().chain(calls).collect::<Vec<_>>().join("\n");
    let role = if role == "developer" { "system".to_owned() } else { role };
    Ok(Message { role, content })
}

/// A text, or its parts put together.
fn text(content: Value, f: &Fields) -> Result<String, FieldError> {
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(i, part)| text_part(&format!("{}[{i}]", f.path("content")), part)).collect()
        }
        other => Err(f.error("content", &format!("must be a string or a list of parts, not {}", kind(&other)))),
    }
}

fn text_part(path: &str, part: Value) -> Result<String, FieldError> {
    let mut part = Fields::of(part, path)?;
    match part.text("type", 64)?.as_deref() {
        Some("text") => part.text("text", usize::MAX)?.ok_or_else(|| part.error("text", "is required")),
        Some(other) => Err(part.error("type", &format!("must be \"text\", not {other:?}: this model reads text only"))),
        None => Err(part.error("type", "is required")),
    }
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Chat<'a, C> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) system_fingerprint: &'a str,
    pub(crate) choices: Vec<C>,
    /// Absent, or null, or counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub(crate) usage: Option<Option<Usage>>,
    /// Of a whole answer, or in the last chunk of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<Timings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogProbs>,
}

/// One response.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    pub(crate) index: u32,
    pub(crate) message: AssistantMessage,
    pub(crate) logprobs: Option<ChatLogProbs>,
    pub(crate) finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AssistantMessage {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    #[schema(value_type = Option<String>)]
    pub(crate) refusal: Option<()>,
}

/// A piece of one response in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunkChoice {
    pub(crate) index: u32,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogProbs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// What a chunk adds: the role once, then text.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_messages_are_named() {
        let cases = [
            ("messages", r#"{}"#),
            ("messages", r#"{"messages":[]}"#),
            ("messages[0].role", r#"{"messages":[{"role":"boss","content":"a"}]}"#),
            ("messages[0].content", r#"{"messages":[{"role":"user","content":null}]}"#),
            ("messages[0].content", r#"{"messages":[{"role":"user","content":{"a":1}}]}"#),
            ("messages[0].content", r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[]}]}"#),
            (
                "messages[0].tool_calls[0].function",
                r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]}"#,
            ),
            (
                "messages[0].content[0].type",
                r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://169.254.169.254"}}]}]}"#,
            ),
            ("tools", r#"{"messages":[{"role":"user","content":"a"}],"tools":[{}]}"#),
            ("chat_template", r#"{"messages":[{"role":"user","content":"a"}],"chat_template":"{{ x }}"}"#),
            ("top_logprobs", r#"{"messages":[{"role":"user","content":"a"}],"top_logprobs":2}"#),
            ("logprobs", r#"{"messages":[{"role":"user","content":"a"}],"logprobs":3}"#),
            ("max_tokens", r#"{"messages":[{"role":"user","content":"a"}],"max_completion_tokens":1,"max_tokens":0}"#),
        ];
        for (param, json) in cases {
            let error = ChatRequest::parse(json.as_bytes()).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }

    /// Goal: a conversation in which tools were called can be sent again. Method: OpenAI's own shape, whose assistant says nothing
    /// beside the call, and one that does.
    #[test]
    fn calls_of_tools_are_text_of_their_assistant() {
        let json = r#"{"messages":[{"role":"user","content":"how warm?"},
            {"role":"assistant","content":null,"refusal":null,"tool_calls":[
                {"id":"1","type":"function","function":{"name":"warmth","arguments":"{\"at\": \"sea\"}"}}]},
            {"role":"tool","tool_call_id":"1","content":"18"},
            {"role":"assistant","content":"18. And","function_call":{"name":"wind","arguments":"{}"}}]}"#;
        let r = ChatRequest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
        let said: Vec<_> = r.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        let call = r#"{"name": "warmth", "arguments": {"at": "sea"}}"#;
        let both = "18. And\n{\"name\": \"wind\", \"arguments\": {}}";
        assert_eq!(said, [("user", "how warm?"), ("assistant", call), ("tool", "18"), ("assistant", both)]);
    }

    #[test]
    fn text_parts_are_joined_and_developers_are_systems() {
        let json =
            r#"{"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
        let r = ChatRequest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((r.messages[0].role.as_str(), r.messages[0].content.as_str()), ("system", "ab"));
    }
}
