//! Calls of tools in a conversation that is sent again: text, like the tool's answers.
//!
//! This daemon calls no tools, but other servers did in conversations that go on here. A model's template sees roles and contents
//! only, so a call becomes a line of its assistant's content: `{"name": "f", "arguments": {…}}`, as the templates of most models
//! write calls.

use serde_json::{Map, Value};

use super::{
    fields::{FieldError, Fields, asks_for_nothing},
    json,
    sampling::NAME_CHARS_MAX,
};

/// Calls of one message at most.
const CALLS_MAX: usize = 128;

/// Takes `tool_calls` and the older `function_call` of a message of this role, a line for each call.
pub(super) fn take(f: &mut Fields, role: &str) -> Result<Vec<String>, FieldError> {
    for name in ["tool_calls", "function_call"] {
        if f.peek(name).is_some_and(asks_for_nothing) {
            f.take(name);
        } else if role != "assistant" && f.peek(name).is_some() {
            return Err(f.error(name, "is only for messages of role assistant"));
        }
    }
    let path = f.path("tool_calls");
    let calls = f.list("tool_calls", CALLS_MAX)?.unwrap_or_default().into_iter().enumerate();
    let mut lines = calls.map(|(i, value)| tool_call(value, &format!("{path}[{i}]"))).collect::<Result<Vec<_>, _>>()?;
    if let Some(function) = f.take("function_call") {
        lines.push(line(function, &f.path("function_call"))?);
    }
    Ok(lines)
}

fn tool_call(value: Value, path: &str) -> Result<String, FieldError> {
    let mut call = Fields::of(value, path)?;
    if call.text("type", 64)?.is_some_and(|kind| kind != "function") {
        return Err(call.error("type", "must be \"function\""));
    }
    line(call.required("function")?, &call.path("function"))
}

/// Arguments are OpenAI's text of an object, which the model wrote and which may be none, or an object, as some clients send it.
fn line(function: Value, path: &str) -> Result<String, FieldError> {
    let mut function = Fields::of(function, path)?;
    let name = function.text("name", NAME_CHARS_MAX)?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| function.error("name", "is required"))?;
    let arguments = match function.take("arguments") {
        None => "{}".to_owned(),
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
        Some(Value::String(text)) if is_object(&text) => on_one_line(&text),
        Some(value @ (Value::String(_) | Value::Object(_))) => value.to_string(),
        Some(_) => return Err(function.error("arguments", "must be an object or the text of one")),
    };
    Ok(format!("{{\"name\": {}, \"arguments\": {arguments}}}", json(&name)))
}

/// JSON without line breaks, every number and the order of keys as they were written. Strings have none: they spell them `\n`.
fn on_one_line(json: &str) -> String {
    json.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(role: &str, message: &str) -> Result<Vec<String>, FieldError> {
        take(&mut Fields::parse(message.as_bytes())?, role)
    }

    #[test]
    fn a_call_is_a_line_with_the_arguments_as_they_came() {
        let call = |function: &str| {
            let message = format!(r#"{{"tool_calls":[{{"id":"1","type":"function","function":{function}}}]}}"#);
            lines("assistant", &message).unwrap_or_else(|e| panic!("{function}: {e:?}"))
        };
        for (function, line) in [
            (
                r#"{"name":"sum","arguments":"{\"b\": 1, \"a\": 2.50}"}"#,
                r#"{"name": "sum", "arguments": {"b": 1, "a": 2.50}}"#,
            ),
            // Pretty-printed, with a line break that is spelled inside of a string.
            (
                r#"{"name":"sum","arguments":"{\n  \"b\": 1,\r\n  \"a\": \"x\\n  y\"\n}\n"}"#,
                r#"{"name": "sum", "arguments": { "b": 1, "a": "x\n  y" }}"#,
            ),
            // Not an object, so that its text stays a text.
            (r#"{"name":"sum","arguments":"{\n1"}"#, r#"{"name": "sum", "arguments": "{\n1"}"#),
            (r#"{"name":"sum","arguments":{"a":1}}"#, r#"{"name": "sum", "arguments": {"a":1}}"#),
            (r#"{"name":"sum","arguments":"{\"a\": 1"}"#, r#"{"name": "sum", "arguments": "{\"a\": 1"}"#),
            (r#"{"name":"a\"b","arguments":""}"#, r#"{"name": "a\"b", "arguments": {}}"#),
            (r#"{"name":"now"}"#, r#"{"name": "now", "arguments": {}}"#),
        ] {
            assert_eq!(call(function), [line]);
        }
        let both =
            r#"{"tool_calls":[{"function":{"name":"a"}},{"function":{"name":"b"}}],"function_call":{"name":"c"}}"#;
        assert_eq!(lines("assistant", both).map(|lines| lines.len()), Ok(3));
        assert_eq!(lines("user", r#"{"tool_calls":[],"function_call":null}"#), Ok(Vec::new()));
        for (role, nothing) in
            ["null", "false", "0", "\"\"", "[]", "{}"].iter().flat_map(|n| [("user", n), ("assistant", n)])
        {
            let message = format!(r#"{{"tool_calls":{nothing},"function_call":{nothing}}}"#);
            assert_eq!(lines(role, &message), Ok(Vec::new()), "{message}");
        }
    }

    #[test]
    fn wrong_calls_are_named() {
        for (role, param, message) in [
            ("user", "tool_calls", r#"{"tool_calls":[{"function":{"name":"a"}}]}"#),
            ("tool", "function_call", r#"{"function_call":{"name":"a"}}"#),
            ("assistant", "tool_calls", r#"{"tool_calls":{"function":{"name":"a"}}}"#),
            ("assistant", "tool_calls[0]", r#"{"tool_calls":["a"]}"#),
            ("assistant", "tool_calls[0].function", r#"{"tool_calls":[{"id":"1"}]}"#),
            ("assistant", "tool_calls[0].type", r#"{"tool_calls":[{"type":"custom","function":{"name":"a"}}]}"#),
            ("assistant", "tool_calls[0].function.name", r#"{"tool_calls":[{"function":{"name":""}}]}"#),
            ("assistant", "function_call.arguments", r#"{"function_call":{"name":"a","arguments":[1]}}"#),
        ] {
            let error = lines(role, message).expect_err(message);
            assert_eq!(error.param.as_deref(), Some(param), "{message}");
        }
    }
}
