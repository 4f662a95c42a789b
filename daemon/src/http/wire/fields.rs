//! The fields of one JSON body, taken one by one, so that whatever is wrong is named.
//!
//! A derived `Deserialize` would tell line and column; clients need the name of the field and the rule that it broke,
//! because that is what OpenAI's `param` holds. `null` counts as absent, as OpenAI's own clients send it. Fields that
//! nobody takes are ignored; of two equal keys the last wins, as in Python's and JavaScript's parsers.

use std::ops::RangeInclusive;

use serde_json::{Map, Number, Value};

use super::error::{FIELDS_DISAGREE, INVALID_VALUE};

#[cfg(test)]
pub(crate) mod record;
#[cfg(test)]
mod tests;

/// What is wrong with a body, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// The field, dotted when nested; `None` when the body as a whole is wrong.
    pub(crate) param: Option<String>,
    /// The rule that was broken, in a sentence.
    pub(crate) message: String,
    /// Which kind of rule, for programs.
    pub(crate) code: &'static str,
}

impl FieldError {
    /// An error about one field.
    pub(crate) fn new(param: impl Into<String>, message: impl Into<String>) -> FieldError {
        FieldError { param: Some(param.into()), message: message.into(), code: INVALID_VALUE }
    }

    /// An error about the body as a whole.
    pub(crate) fn whole(message: impl Into<String>) -> FieldError {
        FieldError { param: None, message: message.into(), code: INVALID_VALUE }
    }

    /// The same, where a program is to know it from a value that the document does not allow.
    pub(crate) fn coded(self, code: &'static str) -> FieldError {
        FieldError { code, ..self }
    }
}

/// The fields that were not yet taken from one JSON object.
pub(crate) struct Fields {
    map: Map<String, Value>,
    prefix: String,
}

impl Fields {
    /// Reads a body: UTF-8, JSON, an object.
    pub(crate) fn parse(body: &[u8]) -> Result<Fields, FieldError> {
        Fields::parse_as("the body", body)
    }

    /// As [`Fields::parse`], for JSON that is called something else in errors: "the line".
    pub(crate) fn parse_as(what: &str, json: &[u8]) -> Result<Fields, FieldError> {
        let whole = |rule: String| FieldError::whole(format!("{what} {rule}"));
        if json.is_empty() {
            return Err(whole("is empty; a JSON object is expected".into()));
        }
        let text = std::str::from_utf8(json).map_err(|e| whole(format!("is not UTF-8: {e}")))?;
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Fields { map, prefix: String::new() }),
            Ok(other) => Err(whole(format!("must be a JSON object, not {}", kind(&other)))),
            Err(e) => Err(whole(format!("is not valid JSON: {e}"))),
        }
    }

    /// The object under an element of a list or another field; errors carry `prefix`.
    pub(crate) fn of(value: Value, prefix: &str) -> Result<Fields, FieldError> {
        match value {
            Value::Object(map) => Ok(Fields { map, prefix: format!("{prefix}.") }),
            other => Err(FieldError::new(prefix, format!("`{prefix}` must be an object, not {}", kind(&other)))),
        }
    }

    /// Takes a field out; `null` is absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        record::note(&self.path(name));
        self.remove(name)
    }

    fn remove(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there and not `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        #[cfg(test)]
        record::note(&self.path(name));
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field as it is, left where it is.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Whether a field holds a list.
    pub(crate) fn has_list(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_array)
    }

    /// The full name of a field, as errors give it.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An error about one of these fields: "`name` rule".
    pub(crate) fn error(&self, name: &str, rule: &str) -> FieldError {
        let path = self.path(name);
        let message = format!("`{path}` {rule}");
        FieldError::new(path, message)
    }

    /// An error about a field that is right by itself and does not fit another one, where no schema can say so.
    pub(crate) fn disagrees(&self, name: &str, rule: &str) -> FieldError {
        self.error(name, rule).coded(FIELDS_DISAGREE)
    }

    /// Refuses a second of these fields, which mean the same or stand for each other: which one counts is not ours to guess.
    pub(crate) fn at_most_one(&self, names: &[&str]) -> Result<(), FieldError> {
        let mut given = names.iter().filter(|name| self.has(name));
        match (given.next(), given.next()) {
            (Some(first), Some(second)) => {
                Err(self.error(second, &format!("and `{}` must not be given together", self.path(first))))
            }
            _ => Ok(()),
        }
    }

    /// A field that must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<Value, FieldError> {
        self.take(name).ok_or_else(|| self.error(name, "is required"))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, FieldError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.error(name, &format!("must be true or false, not {}", kind(&other)))),
        }
    }

    /// An integer in a range; `1.0` is one, as in JSON Schema: JSON has one kind of number only.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, FieldError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let Value::Number(number) = &value else {
            return Err(self.error(name, &format!("must be an integer, not {}", kind(&value))));
        };
        match as_integer(number) {
            Some(i) if range.contains(&i) => Ok(Some(i)),
            None if number.as_f64().is_some_and(|x| x.fract() != 0.0) => {
                Err(self.error(name, &format!("must be an integer, not {number}")))
            }
            _ => Err(self.error(name, &format!("must be in {}..={}, not {number}", range.start(), range.end()))),
        }
    }

    /// A count that fits 32 bits.
    pub(crate) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, FieldError> {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        let value = self.integer(name, range)?;
        Ok(value.map(|i| u32::try_from(i).expect("the range was given in u32")))
    }

    /// A finite number in a range.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, FieldError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(x) if range.contains(&x) => Ok(Some(x)),
            Some(x) => Err(self.error(name, &format!("must be in {}..={}, not {x}", range.start(), range.end()))),
            None => Err(self.error(name, &format!("must be a number, not {}", kind(&value)))),
        }
    }

    /// A text of at most `chars_max` characters, as JSON Schema counts them.
    pub(crate) fn text(&mut self, name: &str, chars_max: usize) -> Result<Option<String>, FieldError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if is_within(&text, chars_max) => Ok(Some(text)),
            Some(Value::String(_)) => Err(self.error(name, &format!("must be at most {chars_max} characters long"))),
            Some(other) => Err(self.error(name, &format!("must be a string, not {}", kind(&other)))),
        }
    }

    /// A list of at most `len_max` elements.
    pub(crate) fn list(&mut self, name: &str, len_max: usize) -> Result<Option<Vec<Value>>, FieldError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= len_max => Ok(Some(list)),
            Some(Value::Array(list)) => {
                Err(self.error(name, &format!("must have at most {len_max} elements, not {}", list.len())))
            }
            Some(other) => Err(self.error(name, &format!("must be a list, not {}", kind(&other)))),
        }
    }

    /// A text, or a list of at most `len_max` texts.
    pub(crate) fn texts(&mut self, name: &str, len_max: usize) -> Result<Option<Vec<String>>, FieldError> {
        let list = match self.take(name) {
            None => return Ok(None),
            Some(Value::String(text)) => return Ok(Some(vec![text])),
            Some(Value::Array(list)) => list,
            Some(other) => {
                let rule = format!("must be a string or a list of strings, not {}", kind(&other));
                return Err(self.error(name, &rule));
            }
        };
        if list.len() > len_max {
            return Err(self.error(name, &format!("must have at most {len_max} elements, not {}", list.len())));
        }
        let text = |value| match value {
            Value::String(text) => Ok(text),
            other => Err(self.error(name, &format!("must hold strings only, not {}", kind(&other)))),
        };
        list.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses fields of the contract that are not built, where silence would change the answer.
    ///
    /// A value that asks for nothing (`false`, `0`, `""`, `[]`, `{}`) passes, because some clients send every field.
    pub(crate) fn refuse(&mut self, names: &[&str]) -> Result<(), FieldError> {
        for name in names {
            if let Some(value) = self.remove(name).filter(|value| !asks_for_nothing(value)) {
                let rule = format!("is not supported by this version of honed (got {})", kind(&value));
                return Err(self.error(name, &rule));
            }
        }
        Ok(())
    }

    /// The same for fields of which one value asks for what happens anyway.
    pub(crate) fn refuse_but(
        &mut self,
        names: &[&str],
        is_neutral: impl Fn(&Value) -> bool,
        rule: &str,
    ) -> Result<(), FieldError> {
        match names.iter().find(|name| self.remove(name).is_some_and(|value| !is_neutral(&value))) {
            Some(name) => Err(self.error(name, &format!("{rule} in this version of honed"))),
            None => Ok(()),
        }
    }
}

/// Whether a text has at most so many characters.
pub(crate) fn is_within(text: &str, chars_max: usize) -> bool {
    text.len() <= chars_max || text.chars().count() <= chars_max
}

/// The integer that a number is, written as one or as `1.0`; `None` for other numbers and beyond 64 bits.
pub(crate) fn as_integer(number: &Number) -> Option<i64> {
    // A float beyond 2^53 may be another integer, rounded (RFC 8259, section 6).
    let is_exact = |x: &f64| x.fract() == 0.0 && x.abs() < 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| number.as_f64().filter(|x| number.is_f64() && is_exact(x)).map(|x| x as i64))
}

/// How a value is called in an error message.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether a value leaves things as they are.
pub(crate) fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}
