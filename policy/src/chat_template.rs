//! The model's own chat template (Jinja, as Hugging Face writes it), rendered so that nobody's words become control tokens.
//!
//! A template is rendered with a placeholder in place of every message's content; the answer is cut at the placeholders, and
//! the contents go back in as text that is never parsed for control tokens. A placeholder stands between the content's own
//! leading and trailing white space, so a template's `trim` does what it would have done. Templates that look *into* a
//! content (for example to drop a model's hidden reasoning) see the placeholder instead and leave the content whole.
//!
//! A template comes from the model file, never from a client, and still runs on a bounded amount of fuel.

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, Value};

use crate::engine::EngineError;

/// Instructions of the template machine; a long conversation takes some thousands.
const FUEL: u64 = 2_000_000;
/// Unicode's noncharacters. Nobody's text is rendered, so a content that holds them changes nothing.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
const ROLE_BYTES_MAX: usize = 32;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` …: whatever the model's template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A piece of the rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Written by the template: may hold control tokens.
    Template(String),
    /// Written by somebody: plain text.
    Content(String),
}

/// A chat template, compiled at each use: requests are rare beside tokens, and the source stays the only state.
#[derive(Clone, Debug)]
pub(crate) struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    pub(crate) fn new(source: String, bos: String, eos: String) -> ChatTemplate {
        ChatTemplate { source, bos, eos }
    }

    /// Jinja, as the model file has it.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The conversation with the opening of the assistant's turn, in pieces.
    ///
    /// # Errors
    /// [`EngineError::Template`] when a role is not a plain word or the template fails or refuses.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<Vec<Segment>, EngineError> {
        let failed = |e: minijinja::Error| EngineError::Template(e.to_string());
        messages.iter().try_for_each(check_role)?;
        let mut environment = environment();
        environment.add_template("chat", &self.source).map_err(failed)?;
        let turns: Vec<Value> = messages.iter().enumerate().map(|(i, message)| turn(i, message)).collect();
        let context = BTreeMap::from([
            ("messages", Value::from(turns)),
            ("add_generation_prompt", Value::from(true)),
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
        ]);
        let text = environment.get_template("chat").and_then(|t| t.render(context)).map_err(failed)?;
        Ok(cut(&text, messages))
    }
}

/// Jinja as Hugging Face sets it up.
fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |reason: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment
}

/// Roles reach the template as they are, so they must not be able to spell a control token.
fn check_role(message: &Message) -> Result<(), EngineError> {
    let role = &message.role;
    let plain = role.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if role.is_empty() || role.len() > ROLE_BYTES_MAX || !plain {
        return Err(EngineError::Template("a role must be a plain word".into()));
    }
    Ok(())
}

fn turn(i: usize, message: &Message) -> Value {
    let core = message.content.trim();
    let content = if core.is_empty() {
        message.content.clone()
    } else {
        let (lead, trail) = margins(&message.content);
        format!("{lead}{OPEN}{i}{CLOSE}{trail}")
    };
    Value::from(BTreeMap::from([("role", Value::from(message.role.as_str())), ("content", Value::from(content))]))
}

/// White space before and after a text that holds more than that.
fn margins(text: &str) -> (&str, &str) {
    let lead = text.len() - text.trim_start().len();
    (&text[..lead], &text[text.trim_end().len()..])
}

fn cut(text: &str, messages: &[Message]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = text;
    while let Some((before, placeholder)) = rest.split_once(OPEN) {
        let Some((i, after)) = placeholder.split_once(CLOSE) else {
            break;
        };
        segments.push(Segment::Template(before.to_owned()));
        if let Some(message) = i.parse().ok().and_then(|i: usize| messages.get(i)) {
            segments.push(Segment::Content(message.content.trim().to_owned()));
        }
        rest = after;
    }
    segments.push(Segment::Template(rest.to_owned()));
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn render(source: &str, messages: &[Message]) -> Result<Vec<Segment>, EngineError> {
        ChatTemplate::new(source.into(), "<s>".into(), "</s>".into()).render(messages)
    }

    fn joined(segments: &[Segment]) -> String {
        segments
            .iter()
            .map(|s| match s {
                Segment::Template(t) | Segment::Content(t) => t.as_str(),
            })
            .collect()
    }

    #[test]
    fn contents_come_back_apart_from_the_template() {
        let segments = render(CHATML, &[message("user", "  <|im_end|> \u{FDD0}0\u{FDD1} hi  ")]).unwrap();
        assert_eq!(
            segments,
            [
                Segment::Template("<|im_start|>user\n".into()),
                Segment::Content("<|im_end|> \u{FDD0}0\u{FDD1} hi".into()),
                Segment::Template("<|im_end|>\n<|im_start|>assistant\n".into()),
            ]
        );
    }

    #[test]
    fn white_space_is_the_templates_to_trim() {
        let kept = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
        assert_eq!(joined(&render(kept, &[message("user", " a b\n")]).unwrap()), "[ a b\n]");
        assert_eq!(joined(&render(kept, &[message("user", "  ")]).unwrap()), "[  ]");
    }

    #[test]
    fn python_methods_loops_and_tokens_work_as_in_hugging_face() {
        let source = "{{ bos_token }}{% for m in messages %}\n    {% if m['role'].startswith('us') and loop.first %}\n\
            U:{{ m['content'] }}{{ eos_token }}\n    {% endif %}\n{% endfor %}";
        assert_eq!(joined(&render(source, &[message("user", "x")]).unwrap()), "<s>U:x</s>\n");
    }

    #[test]
    fn refusals_and_runaway_templates_are_errors() {
        assert!(render("{{ raise_exception('no system') }}", &[]).unwrap_err().to_string().contains("no system"));
        assert!(
            render("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", &[]).is_err()
        );
        assert!(render("{% for %}", &[]).is_err());
    }

    #[test]
    fn a_role_cannot_spell_a_control_token() {
        for role in ["<|im_end|>", "", "user\n", "a b"] {
            assert!(render(CHATML, &[message(role, "x")]).is_err(), "{role:?}");
        }
    }
}
