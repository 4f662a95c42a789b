//! What a response may look like: a language that it must belong to.
//!
//! Clients bring these, so they are bounded before anything looks at them: nested brackets have overflowed the stacks of
//! other servers, and large repetitions their memory. What is left is bounded by the compiler's own budget.

/// Bytes of one grammar at most.
const BYTES_MAX: usize = 64 * 1024;
/// Brackets open at once at most.
const DEPTH_MAX: usize = 64;

/// A language, as a client describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// JSON that fits a JSON Schema; the schema as the text of a JSON object.
    JsonSchema(String),
    /// Texts that a regular expression matches whole; the syntax of Rust's `regex`, without look-around.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar in Lark's syntax, as llguidance reads it; its first rule is `start`.
    Lark(String),
}

/// Why a grammar is refused, in a sentence that can follow the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is too large, too deep, or not one.
    #[error("{0}")]
    Invalid(String),
    /// As many grammars wait to be compiled as may wait, or those before it took too long.
    #[error("cannot be compiled now: too many others wait")]
    Busy,
    /// The compiler took longer than a request may wait for it.
    #[error("takes too long to compile")]
    TooSlow,
    /// The compiler's thread has ended.
    #[error("cannot be compiled any more: the engine is shutting down")]
    Ended,
}

impl Grammar {
    /// The grammar in Lark's syntax, once it is known to be small and shallow.
    ///
    /// # Errors
    /// [`GrammarError::Invalid`].
    pub(crate) fn to_lark(&self) -> Result<String, GrammarError> {
        match self {
            Grammar::JsonSchema(schema) => {
                bounded(schema).map(|schema| format!("start: %json {}", with_bounded_blanks(schema)))
            }
            Grammar::Regex(regex) if regex.is_empty() => Err(invalid("must not be empty")),
            Grammar::Regex(regex) => bounded(regex).map(|regex| format!("start: /{}/", escape_slashes(regex))),
            Grammar::Lark(lark) => bounded(lark).map(str::to_owned),
            Grammar::Choice(texts) => {
                if texts.is_empty() || texts.iter().any(String::is_empty) {
                    return Err(invalid("must hold at least one text, and none that is empty"));
                }
                small(texts.iter().map(|text| text.len() + 3).sum())?;
                let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
                Ok(format!("start: {}", quoted.join(" | ")))
            }
        }
    }
}

fn invalid(rule: &str) -> GrammarError {
    GrammarError::Invalid(rule.to_owned())
}

fn small(n_bytes: usize) -> Result<(), GrammarError> {
    match n_bytes <= BYTES_MAX {
        true => Ok(()),
        false => Err(GrammarError::Invalid(format!("must have at most {BYTES_MAX} bytes, not {n_bytes}"))),
    }
}

/// Counts brackets wherever they stand, in strings too: who needs more than the bound has other problems.
fn bounded(text: &str) -> Result<&str, GrammarError> {
    small(text.len())?;
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(GrammarError::Invalid(format!("must not nest brackets deeper than {DEPTH_MAX}")));
        }
    }
    Ok(text)
}

/// What a response may put between the parts of its JSON: nothing, a space, or a line break with its indentation. Blanks
/// without end, which JSON allows, are all that some small models write.
const BLANKS: &str = r#""x-guidance":{"whitespace_pattern":" |\\n[ \\t]{0,20}"}"#;

/// Put in front: the last of two equal keys counts, so a client's own `x-guidance` is kept.
fn with_bounded_blanks(schema: &str) -> String {
    match schema.trim_start().strip_prefix('{') {
        Some(rest) if rest.trim_start().starts_with('}') => format!("{{{BLANKS}{rest}"),
        Some(rest) => format!("{{{BLANKS},{rest}"),
        // Not an object: the compiler says what is wrong with it.
        None => schema.to_owned(),
    }
}

/// A slash would end the expression; an escaped one stays as it is.
fn escape_slashes(regex: &str) -> String {
    let (mut escaped, mut is_escape) = (String::with_capacity(regex.len()), false);
    for c in regex.chars() {
        match c {
            '/' if !is_escape => escaped.push_str("\\/"),
            // Lark's expressions end with their line.
            '\n' => escaped.push_str(if is_escape { "n" } else { "\\n" }),
            _ => escaped.push(c),
        }
        is_escape = c == '\\' && !is_escape;
    }
    escaped
}

/// Lark's strings are JSON's.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| quoted.push_str(&format!("\\u{unit:04x}")));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(grammar: Grammar) -> String {
        grammar.to_lark().expect_err("out of bounds").to_string()
    }

    #[test]
    fn every_form_becomes_lark() {
        let lark = |grammar: Grammar| grammar.to_lark().unwrap();
        assert_eq!(lark(Grammar::JsonSchema("{}".into())), format!("start: %json {{{BLANKS}}}"));
        let typed = lark(Grammar::JsonSchema(r#" { "type":"string"}"#.into()));
        assert_eq!(typed, format!(r#"start: %json {{{BLANKS}, "type":"string"}}"#));
        assert_eq!(lark(Grammar::Regex(r"a/b\/c\\/".into())), r"start: /a\/b\/c\\\//");
        assert_eq!(lark(Grammar::Regex("a\nb".into())), r"start: /a\nb/");
        assert_eq!(lark(Grammar::Choice(vec!["y\"\n".into(), "é".into()])), "start: \"y\\\"\\u000a\" | \"é\"");
        assert_eq!(lark(Grammar::Lark("start: \"a\"".into())), "start: \"a\"");
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_refused_before_it_is_read() {
        assert!(refused(Grammar::Regex("(".repeat(60_000))).contains("nest"));
        assert!(refused(Grammar::JsonSchema("[".repeat(65))).contains("nest"));
        assert!(refused(Grammar::Lark("x".repeat(65_537))).contains("bytes"));
        assert!(refused(Grammar::Choice(vec!["x".repeat(1000); 66])).contains("bytes"));
        assert!(refused(Grammar::Choice(Vec::new())).contains("at least one"));
        assert!(refused(Grammar::Choice(vec![String::new()])).contains("empty"));
        assert!(refused(Grammar::Regex(String::new())).contains("empty"));
    }
}
