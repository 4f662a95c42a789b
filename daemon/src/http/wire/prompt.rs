//! The four forms of `prompt`.

use policy::TokenId;
use serde_json::Value;

use super::{
    fields::{FieldError, Fields, kind},
    sampling::token_id,
};

/// Prompts in one request at most.
pub(crate) const PROMPTS_MAX: usize = 1024;

/// One prompt, not yet tokenised or already so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// Text.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
}

/// Takes `prompt`: a string, strings, token ids, or lists of token ids. Strings and lists of ids may be mixed.
pub(crate) fn take(f: &mut Fields) -> Result<Vec<Prompt>, FieldError> {
    take_as(f, "prompt")
}

/// As [`take`], where the route calls it something else.
pub(crate) fn take_as(f: &mut Fields, name: &str) -> Result<Vec<Prompt>, FieldError> {
    let prompts = match f.required(name)? {
        Value::String(text) => vec![Prompt::Text(text)],
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            vec![Prompt::Tokens(tokens(f, name, &list)?)]
        }
        Value::Array(list) if list.len() > PROMPTS_MAX => {
            return Err(f.error(name, &format!("must hold at most {PROMPTS_MAX} prompts, not {}", list.len())));
        }
        Value::Array(list) => list.into_iter().map(|value| one(f, name, value)).collect::<Result<_, _>>()?,
        other => {
            return Err(f.error(name, &format!("must be a string or a list, not {}", kind(&other))));
        }
    };
    let empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::Tokens(ids) => ids.is_empty(),
    };
    match prompts.is_empty() || prompts.iter().any(empty) {
        true => Err(f.error(name, "must not be empty")),
        false => Ok(prompts),
    }
}

fn one(f: &Fields, name: &str, value: Value) -> Result<Prompt, FieldError> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) => Ok(Prompt::Tokens(tokens(f, name, &ids)?)),
        other => Err(f.error(name, &format!("must hold strings or lists of token ids, not {}", kind(&other)))),
    }
}

fn tokens(f: &Fields, name: &str, list: &[Value]) -> Result<Vec<TokenId>, FieldError> {
    list.iter()
        .map(|value| token_id(value).ok_or_else(|| f.error(name, &format!("holds {value}, which is no token id"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(json: &str) -> Result<Vec<Prompt>, FieldError> {
        take(&mut Fields::parse(format!(r#"{{"prompt":{json}}}"#).as_bytes())?)
    }

    #[test]
    fn all_four_forms_are_read() {
        let ids = |ids: &[u32]| Prompt::Tokens(ids.iter().map(|i| TokenId(*i)).collect());
        let text = |text: &str| Prompt::Text(text.into());
        assert_eq!(prompts(r#""a""#), Ok(vec![text("a")]));
        assert_eq!(prompts(r#"["a","b"]"#), Ok(vec![text("a"), text("b")]));
        assert_eq!(prompts("[1,2]"), Ok(vec![ids(&[1, 2])]));
        assert_eq!(prompts("[[1],[2,3]]"), Ok(vec![ids(&[1]), ids(&[2, 3])]));
    }

    #[test]
    fn wrong_forms_name_the_prompt() {
        for wrong in [
            "null",
            "[]",
            "\"\"",
            "[[]]",
            "[\"\"]",
            "5",
            "{}",
            "[1,\"a\"]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[[\"1\"]]",
        ] {
            let error = prompts(wrong).err().unwrap_or_else(|| panic!("{wrong} passed"));
            assert_eq!(error.param.as_deref(), Some("prompt"), "{wrong}");
        }
    }
}
