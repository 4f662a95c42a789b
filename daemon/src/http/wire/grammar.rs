//! The fields that say what a response must look like: OpenAI's `response_format`, vLLM's `guided_*` and
//! `structured_outputs`, llama-server's `json_schema` and `grammar`. At most one of them.
//!
//! Grammars are in Lark's syntax, as vLLM's `guidance` backend takes them; llama-server's own notation is refused by the
//! compiler with its reason.

use policy::Grammar;
use serde_json::Value;

use super::fields::{FieldError, Fields, kind};

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

fn response_format(f: &mut Fields) -> Result<Option<NamedGrammar>, FieldError> {
    let Some(value) = f.take("response_format") else {
        return Ok(None);
    };
    let mut format = Fields::of(value, &f.path("response_format"))?;
    match format.text("type", 64)?.as_deref() {
        None | Some("text") => Ok(None),
        // llama-server's clients give this type a schema.
        Some("json_object") => Ok(Some(match schema(&mut format, "schema")? {
            Some(of_schema) => of_schema,
            None => named(f, "response_format", Grammar::JsonSchema(ANY_OBJECT.to_owned())),
        })),
        Some("json_schema") => {
            let mut inner = Fields::of(format.required("json_schema")?, &format.path("json_schema"))?;
            schema(&mut inner, "schema")?.map(Some).ok_or_else(|| inner.error("schema", "is required"))
        }
        Some(other) => {
            Err(format.error("type", &format!("must be \"text\", \"json_object\" or \"json_schema\", not {other:?}")))
        }
    }
}

/// A schema, also as the text of one, as vLLM's clients send it.
fn schema(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    let object = match f.take(name) {
        None => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|error| f.error(name, &format!("must be a JSON schema or the text of one: {error}")))?,
        Some(other) => other,
    };
    match object {
        Value::Object(_) => Ok(Some(named(f, name, Grammar::JsonSchema(object.to_string())))),
        other => Err(f.error(name, &format!("must be a JSON object, not {}", kind(&other)))),
    }
}

fn regular(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    Ok(f.text(name, usize::MAX)?.map(|regex| named(f, name, Grammar::Regex(regex))))
}

fn lark(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    let grammar = f.text(name, usize::MAX)?.filter(|text| !text.is_empty());
    Ok(grammar.map(|grammar| named(f, name, Grammar::Lark(grammar))))
}

fn choices(f: &mut Fields, name: &str) -> Result<Option<NamedGrammar>, FieldError> {
    match f.has_list(name) || !f.has(name) {
        true => Ok(f.texts(name, CHOICES_MAX)?.map(|texts| named(f, name, Grammar::Choice(texts)))),
        false => Err(f.error(name, "must be a list of strings")),
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
