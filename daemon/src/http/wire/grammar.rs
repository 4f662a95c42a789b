//! The fields that say what a response must look like: OpenAI's `response_format`, vLLM's `guided_*` and
//! `structured_outputs`, llama-server's `json_schema` and `grammar`. At most one of them.
//!
//! Grammars are in Lark's syntax, as vLLM's `guidance` backend takes them; llama-server's own notation is refused by the
//! compiler with its reason.

use policy::Grammar;
use serde_json::Value;

use super::{
    error::INVALID_GRAMMAR,
    fields::{FieldError, Fields, kind},
};

/// Texts of a choice at most; their bytes are bounded with the grammar's.
const CHOICES_MAX: usize = 1024;
/// The schema of any JSON object.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;

/// A grammar, and the field that brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedGrammar {
    /// As errors name it.
    pub(crate) field: String,
    /// Not compiled.
    pub(crate) grammar: Grammar,
}

/// Takes all of them; two that ask for something contradict each other.
pub(crate) fn take(f: &mut Fields) -> Result<Option<NamedGrammar>, FieldError> {
    let mut all = Vec::new();
    all.extend(response_format(f)?);
    all.extend(forms(f, ["guided_json", "guided_regex", "guided_choice", "guided_grammar"])?);
    if let Some(value) = f.take("structured_outputs") {
        let mut inner = Fields::of(value, &f.path("structured_outputs"))?;
        inner.refuse(&["structural_tag", "json_object"])?;
        all.extend(forms(&mut inner, ["json", "regex", "choice", "grammar"])?);
    }
    all.extend(schema(f, "json_schema")?);
    all.extend(lark(f, "grammar")?);
    match &all[..] {
        [] | [_] => Ok(all.pop()),
        [first, second, ..] => {
            let message = format!("`{}` and `{}` must not be given together", first.field, second.field);
            Err(FieldError::new(second.field.clone(), message))
        }
    }
}

/// The four forms under the names that they have here.
fn forms(f: &mut Fields, names: [&str; 4]) -> Result<Vec<NamedGrammar>, FieldError> {
    let [json, regex, choice, grammar] = names;
    let forms = [schema(f, json)?, regular(f, regex)?, choices(f, choice)?, lark(f, grammar)?];
    Ok(forms.into_iter().flatten().collect())
}

fn named(f: &Fields, name: &str, grammar: Grammar) -> NamedGrammar {
    NamedGrammar { field: f.path(name), grammar }
}

/// What a `type` of `response_format` does not use, it must not hold: it would be dropped silently.
fn response_format(f: &mut Fields) -> Result<Option<NamedGrammar>, FieldError> {
    let Some(value) = f.take("response_format") else {
        return Ok(None);
    };
    let mut format = Fields::of(value, &f.path("response_format"))?;
    let kind = format.text("type", 64)?;
    let unused: &[&str] = match kind.as_deref() {
        None | Some("text") => &["json_schema", "schema"],
        Some("json_object") => &["json_schema"],
        Some("json_schema") => &["schema"],
        Some(other) => {
            let rule = format!("must be \"text\", \"json_object\" or \"json_schema\", not {other:?}");
            return Err(format.error("type", &rule));
        }
    };
    if let Some(name) = unused.iter().find(|name| format.has(name)) {
        let kind = kind.as_deref().unwrap_or("text");
        return Err(format.error(name, &format!("is not for the type {kind:?}")));
    }
    match kind.as_deref() {
        None | Some("text") => Ok(None),
        Some("json_schema") => {
            let mut inner = Fields::of(format.required("json_schema")?, &format.path("json_schema"))?;
            schema(&mut inner, "schema")?.map(Some).ok_or_else(|| inner.error("schema", "is required"))
        }
        // llama-server's clients give this type a schema.
        Some(_) => Ok(Some(match schema(&mut format, "schema")? {
            Some(of_schema) => of_schema,
            None => named(f, "response_format", Grammar::JsonSchema(ANY_OBJECT.to_owned())),
        })),
    }
}

/// A schema, also as the text of one, as vLLM's clients send it.
fn schema(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    let rule = "must be a JSON schema or the text of one";
    let object = match f.take(name) {
        None => return Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(object @ Value::Object(_)) => object,
            Ok(other) => {
                let rule = format!("{rule}: it spells {}", kind(&other));
                return Err(f.error(name, &rule).coded(INVALID_GRAMMAR));
            }
            Err(error) => return Err(f.error(name, &format!("{rule}: {error}")).coded(INVALID_GRAMMAR)),
        },
        Some(object @ Value::Object(_)) => object,
        Some(other) => return Err(f.error(name, &format!("{rule}, not {}", kind(&other)))),
    };
    Ok(Some(named(f, name, Grammar::JsonSchema(object.to_string()))))
}

fn regular(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    match f.text(name, usize::MAX)? {
        Some(regex) if regex.is_empty() => Err(f.error(name, "must not be empty")),
        regex => Ok(regex.map(|regex| named(f, name, Grammar::Regex(regex)))),
    }
}

fn lark(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    let grammar = f.text(name, usize::MAX)?.filter(|text| !text.is_empty());
    Ok(grammar.map(|grammar| named(f, name, Grammar::Lark(grammar))))
}

fn choices(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    if f.has(name) && !f.has_list(name) {
        return Err(f.error(name, "must be a list of strings"));
    }
    match f.texts(name, CHOICES_MAX)? {
        Some(texts) if texts.is_empty() || texts.iter().any(String::is_empty) => {
            Err(f.error(name, "must hold at least one text, and none that is empty"))
        }
        texts => Ok(texts.map(|texts| named(f, name, Grammar::Choice(texts)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(json: &str) -> Result<Option<NamedGrammar>, FieldError> {
        take(&mut Fields::parse(json.as_bytes())?)
    }

    #[test]
    fn every_form_is_read() {
        let schema = Grammar::JsonSchema(r#"{"type":"string"}"#.into());
        let choice = Grammar::Choice(vec!["a".into(), "b".into()]);
        let cases = [
            (r#"{"response_format":{"type":"text"}}"#, None),
            (r#"{"response_format":{"type":"json_object"}}"#, Some(Grammar::JsonSchema(ANY_OBJECT.into()))),
            (
                r#"{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"string"}}}}"#,
                Some(schema.clone()),
            ),
            (r#"{"response_format":{"type":"json_object","schema":{"type":"string"}}}"#, Some(schema.clone())),
            (r#"{"guided_json":"{\"type\":\"string\"}"}"#, Some(schema.clone())),
            (r#"{"json_schema":{"type":"string"}}"#, Some(schema)),
            (r#"{"guided_regex":"a+"}"#, Some(Grammar::Regex("a+".into()))),
            (r#"{"guided_choice":["a","b"]}"#, Some(choice.clone())),
            (r#"{"structured_outputs":{"choice":["a","b"]}}"#, Some(choice)),
            (r#"{"grammar":"start: \"a\""}"#, Some(Grammar::Lark("start: \"a\"".into()))),
            (r#"{"grammar":"","guided_json":null}"#, None),
        ];
        for (json, want) in cases {
            let got = taken(json).unwrap_or_else(|e| panic!("{json}: {e:?}"));
            assert_eq!(got.map(|named| named.grammar), want, "{json}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let cases = [
            ("response_format.json_schema", r#"{"response_format":{"type":"json_schema"}}"#),
            ("response_format.json_schema.schema", r#"{"response_format":{"type":"json_schema","json_schema":{}}}"#),
            ("response_format.type", r#"{"response_format":{"type":"xml"}}"#),
            ("response_format.schema", r#"{"response_format":{"type":"json_object","schema":5}}"#),
            ("response_format", r#"{"response_format":"json"}"#),
            ("response_format.json_schema", r#"{"response_format":{"type":"json_object","json_schema":{}}}"#),
            ("response_format.schema", r#"{"response_format":{"schema":{}}}"#),
            ("guided_choice", r#"{"guided_choice":[]}"#),
            ("guided_choice", r#"{"guided_choice":["a",""]}"#),
            ("guided_regex", r#"{"guided_regex":""}"#),
            ("guided_json", r#"{"guided_json":"{"}"#),
            ("guided_json", r#"{"guided_json":[1]}"#),
            ("guided_regex", r#"{"guided_regex":5}"#),
            ("guided_choice", r#"{"guided_choice":"a"}"#),
            ("guided_choice", r#"{"guided_choice":[1]}"#),
            ("guided_choice", r#"{"guided_regex":"a","guided_choice":["a"]}"#),
            ("structured_outputs.structural_tag", r#"{"structured_outputs":{"structural_tag":"x"}}"#),
        ];
        for (param, json) in cases {
            let error = taken(json).err().unwrap_or_else(|| panic!("{json} passed"));
            assert_eq!(error.param.as_deref(), Some(param), "{json}");
        }
    }
}
