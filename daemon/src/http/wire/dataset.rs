//! One line of a data file: what there is to learn from.
//!
//! The formats are those of Hugging Face's TRL where it has one, and ours for rankings of K responses. A record may name
//! its `user` and, where somebody ranked, its `worker`; keys that nobody knows are ignored, so that a file may carry more.

use policy::chat_template::Message;
use reward::margin::{Margin, Strength};
use serde_json::Value;

use super::{
    chat::messages,
    fields::{FieldError, Fields, kind},
};

/// Responses that one ranking may order.
const RESPONSES_MAX: usize = reward::preference::N_RESPONSES_MAX;

/// A prompt as a record holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PromptText {
    /// Continued as it stands.
    Plain(String),
    /// Goes through the model's chat template.
    Chat(Vec<Message>),
}

/// What supervised fine-tuning learns from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Example {
    /// A document: every token is a target.
    Text(String),
    /// An answer to a prompt: the answer is the target.
    Exchange {
        /// The prompt.
        prompt: PromptText,
        /// The answer.
        completion: String,
    },
}

/// What a reward model learns from: responses to one prompt in an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// The prompt.
    pub(crate) prompt: PromptText,
    /// At least two.
    pub(crate) responses: Vec<String>,
    /// One for each response, 1 is best, equal ranks are a tie.
    pub(crate) ranks: Vec<u32>,
    /// Who ranked.
    pub(crate) worker: Option<String>,
    /// Of a pair: the gap that is asked of its scores.
    pub(crate) margin: Option<Margin>,
    /// Of a pair: how strongly its labeler prefers the better one.
    pub(crate) strength: Option<Strength>,
}

/// A record with the person it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<T> {
    /// The key `user`.
    pub(crate) user: Option<String>,
    /// The rest.
    pub(crate) content: T,
}

impl Record<Example> {
    /// Reads `{"prompt", "completion"}`, `{"messages"}` that end with an answer, or `{"text"}`.
    pub(crate) fn example(line: &[u8]) -> Result<Self, FieldError> {
        let mut f = Fields::parse_as("the line", line)?;
        let user = name(&mut f, "user")?;
        let content = if f.has("prompt") || f.has("completion") {
            let prompt = prompt(&mut f)?;
            Example::Exchange { prompt, completion: answer(&mut f, "completion")? }
        } else if f.has("messages") {
            let mut turns = messages(&mut f, "messages")?;
            let Some(last) = turns.pop_if(|last| last.role == "assistant") else {
                return Err(f.error("messages", "must end with a message of role assistant: that is what is learnt"));
            };
            check_turns(&f, "messages", &turns)?;
            Example::Exchange { prompt: PromptText::Chat(turns), completion: not_empty(&f, "messages", last.content)? }
        } else {
            match f.text("text", usize::MAX)? {
                Some(text) => Example::Text(not_empty(&f, "text", text)?),
                None => return Err(whole("needs `prompt` and `completion`, or `messages`, or `text`")),
            }
        };
        Ok(Record { user, content })
    }
}

impl Record<PromptText> {
    /// Reads `{"prompt"}` or `{"messages"}`; an answer at the end of a conversation is left out, since one will be drawn.
    pub(crate) fn prompt(line: &[u8]) -> Result<Self, FieldError> {
        let mut f = Fields::parse_as("the line", line)?;
        let user = name(&mut f, "user")?;
        if f.has("prompt") {
            return Ok(Record { user, content: prompt(&mut f)? });
        }
        if !f.has("messages") {
            return Err(whole("needs `prompt` or `messages`"));
        }
        let mut turns = messages(&mut f, "messages")?;
        turns.pop_if(|last| last.role == "assistant");
        check_turns(&f, "messages", &turns)?;
        Ok(Record { user, content: PromptText::Chat(turns) })
    }
}

impl Record<Comparison> {
    /// Reads `{"prompt", "responses", "ranks"}` or `{"prompt", "chosen", "rejected"}`; where `chosen` and `rejected` are
    /// whole conversations, what they share is the prompt. Such a pair may have a `margin`, or a word for its `strength`.
    pub(crate) fn comparison(line: &[u8]) -> Result<Self, FieldError> {
        let mut f = Fields::parse_as("the line", line).map_err(|error| endless_margin(line).unwrap_or(error))?;
        let (user, worker) = (name(&mut f, "user")?, name(&mut f, "worker")?);
        let (margin, strength) = (margin(&mut f)?, strength(&mut f)?);
        let (prompt, responses, ranks) = if f.has("responses") || f.has("ranks") {
            let prompt = prompt(&mut f)?;
            let responses = responses(&mut f)?;
            let ranks = ranks(&mut f, responses.len())?;
            (prompt, responses, ranks)
        } else if !f.has("chosen") && !f.has("rejected") {
            return Err(whole("needs `chosen` and `rejected`, or `responses` and `ranks`"));
        } else if f.has("prompt") {
            let prompt = prompt(&mut f)?;
            (prompt, vec![answer(&mut f, "chosen")?, answer(&mut f, "rejected")?], vec![1, 2])
        } else {
            let (turns, pair) = shared_conversation(&mut f)?;
            (PromptText::Chat(turns), pair, vec![1, 2])
        };
        Ok(Record { user, content: Comparison { prompt, responses, ranks, worker, margin, strength } })
    }
}

fn whole(rule: &str) -> FieldError {
    FieldError::whole(format!("the record {rule}"))
}

/// A name as people write it: a text or a number.
fn name(f: &mut Fields, key: &str) -> Result<Option<String>, FieldError> {
    match f.take(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(f.error(key, &format!("must be a string or a number, not {}", kind(&other)))),
    }
}

fn prompt(f: &mut Fields) -> Result<PromptText, FieldError> {
    if f.has_list("prompt") {
        let turns = messages(f, "prompt")?;
        check_turns(f, "prompt", &turns)?;
        return Ok(PromptText::Chat(turns));
    }
    let text = f.text("prompt", usize::MAX)?.ok_or_else(|| f.error("prompt", "is required"))?;
    Ok(PromptText::Plain(not_empty(f, "prompt", text)?))
}

/// A conversation that waits for an answer.
fn check_turns(f: &Fields, field: &str, turns: &[Message]) -> Result<(), FieldError> {
    match turns.last() {
        None => Err(f.error(field, "must hold a message before the answer")),
        Some(last) if last.role == "assistant" => {
            Err(f.error(field, "must not end with two messages of role assistant"))
        }
        Some(_) => Ok(()),
    }
}

/// A text, or a conversation of one message by the assistant.
fn answer(f: &mut Fields, field: &str) -> Result<String, FieldError> {
    let text = if f.has_list(field) {
        let turns = messages(f, field)?;
        match <[Message; 1]>::try_from(turns) {
            Ok([turn]) if turn.role == "assistant" => turn.content,
            _ => return Err(f.error(field, "must be a string or one message of role assistant")),
        }
    } else {
        f.text(field, usize::MAX)?.ok_or_else(|| f.error(field, "is required"))?
    };
    not_empty(f, field, text)
}

fn not_empty(f: &Fields, field: &str, text: String) -> Result<String, FieldError> {
    if text.is_empty() { Err(f.error(field, "must not be empty")) } else { Ok(text) }
}

fn responses(f: &mut Fields) -> Result<Vec<String>, FieldError> {
    let list = f.texts("responses", RESPONSES_MAX)?.ok_or_else(|| f.error("responses", "is required"))?;
    if list.len() < 2 {
        return Err(f.error("responses", &format!("must have 2..={RESPONSES_MAX} elements, not {}", list.len())));
    }
    list.into_iter().enumerate().map(|(i, text)| not_empty(f, &format!("responses[{i}]"), text)).collect()
}

/// The gap of a pair. A ranking has as many pairs as it likes, and no field for each.
fn margin(f: &mut Fields) -> Result<Option<Margin>, FieldError> {
    check_pair(f, "margin")?;
    let Some(value) = f.take("margin") else { return Ok(None) };
    match value.as_f64().map(|gap| (Margin::new(gap), gap)) {
        Some((Some(margin), _)) => Ok(Some(margin)),
        Some((None, gap)) => Err(no_margin(gap)),
        None => Err(f.error("margin", &format!("must be a number, not {}", kind(&value)))),
    }
}

fn no_margin(gap: f64) -> FieldError {
    FieldError::new("margin", format!("`margin` must be a finite number from 0 on, not {gap}"))
}

/// What Python writes for it is no JSON, and the parser of that knows no names: here it has one.
fn endless_margin(line: &[u8]) -> Option<FieldError> {
    let text = std::str::from_utf8(line).ok()?;
    let value = text.split("\"margin\"").skip(1).find_map(|rest| rest.trim_start().strip_prefix(':'))?;
    let gap: f64 = value.split([',', '}']).next()?.trim().parse().ok()?;
    (!gap.is_finite()).then(|| no_margin(gap))
}

fn strength(f: &mut Fields) -> Result<Option<Strength>, FieldError> {
    check_pair(f, "strength")?;
    let Some(value) = f.take("strength") else { return Ok(None) };
    let known = value.as_str().and_then(Strength::parse);
    let words = || Strength::ALL.map(|strength| format!("{:?}", strength.word())).join(", ");
    known.map(Some).ok_or_else(|| f.error("strength", &format!("must be one of {}, not {value}", words())))
}

fn check_pair(f: &Fields, field: &str) -> Result<(), FieldError> {
    match f.has(field) && (f.has("responses") || f.has("ranks")) {
        true => Err(f.error(field, "belongs to `chosen` and `rejected`; of rankings --margin-per-rank is asked")),
        false => Ok(()),
    }
}

fn ranks(f: &mut Fields, n_responses: usize) -> Result<Vec<u32>, FieldError> {
    let list = f.list("ranks", usize::MAX)?.ok_or_else(|| f.error("ranks", "is required"))?;
    if list.len() != n_responses {
        let rule = format!("must have one rank for each of {n_responses} responses, not {}", list.len());
        return Err(f.error("ranks", &rule));
    }
    let rank = |value: Value| match value.as_u64().and_then(|rank| u32::try_from(rank).ok()) {
        Some(rank) if rank >= 1 => Ok(rank),
        _ => Err(f.error("ranks", &format!("must hold integers from 1 (the best) on, not {value}"))),
    };
    list.into_iter().map(rank).collect()
}

/// Two conversations that differ in their last message only.
fn shared_conversation(f: &mut Fields) -> Result<(Vec<Message>, Vec<String>), FieldError> {
    if !f.has_list("chosen") {
        return Err(f.error("prompt", "is required beside `chosen` and `rejected`"));
    }
    let (mut chosen, mut rejected) = (messages(f, "chosen")?, messages(f, "rejected")?);
    match (chosen.pop(), rejected.pop()) {
        (Some(best), Some(other)) if chosen == rejected && best.role == "assistant" && other.role == "assistant" => {
            check_turns(f, "chosen", &chosen)?;
            Ok((chosen, vec![not_empty(f, "chosen", best.content)?, not_empty(f, "rejected", other.content)?]))
        }
        _ => Err(f.error("rejected", "must be the conversation of `chosen` with another last answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> PromptText {
        PromptText::Plain(text.to_owned())
    }

    fn user(text: &str) -> Message {
        Message { role: "user".to_owned(), content: text.to_owned() }
    }

    #[test]
    fn every_format_of_an_example_is_read() {
        let content = |json: &str| Record::example(json.as_bytes()).expect(json).content;
        let exchange = |prompt, completion: &str| Example::Exchange { prompt, completion: completion.to_owned() };
        assert_eq!(content(r#"{"prompt":"a","completion":"b","more":[1]}"#), exchange(plain("a"), "b"));
        let chat = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
        assert_eq!(content(chat), exchange(PromptText::Chat(vec![user("a")]), "b"));
        let mixed = r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]}"#;
        assert_eq!(content(mixed), exchange(PromptText::Chat(vec![user("a")]), "b"));
        assert_eq!(content(r#"{"text":"a"}"#), Example::Text("a".to_owned()));
        let named = |json: &str| Record::example(json.as_bytes()).expect(json).user;
        assert_eq!(named(r#"{"text":"a","user":7}"#).as_deref(), Some("7"));
    }

    #[test]
    fn comparisons_become_ranks() {
        let content = |json: &str| Record::comparison(json.as_bytes()).expect(json).content;
        let pair = content(r#"{"prompt":"p","chosen":"good","rejected":"bad","worker":"w"}"#);
        assert_eq!((pair.responses, pair.ranks), (vec!["good".to_owned(), "bad".to_owned()], vec![1, 2]));
        assert_eq!(pair.worker.as_deref(), Some("w"));
        let ranked = content(r#"{"prompt":"p","responses":["a","b","c"],"ranks":[2,1,2]}"#);
        assert_eq!(ranked.ranks, [2, 1, 2]);
        let implicit = r#"{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"x"}],
            "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"y"}]}"#;
        assert_eq!(content(implicit).prompt, PromptText::Chat(vec![user("q")]));
    }

    #[test]
    fn a_pair_says_how_far_apart_it_is() {
        let content = |json: &str| Record::comparison(json.as_bytes()).expect(json).content;
        let pair = content(r#"{"prompt":"p","chosen":"a","rejected":"b","margin":0.5,"strength":"slightly"}"#);
        assert_eq!((pair.margin, pair.strength), (Margin::new(0.5), Some(Strength::Slightly)));
        // A column of TRL's that is empty in this row.
        let bare = content(r#"{"prompt":"p","chosen":"a","rejected":"b","margin":null}"#);
        assert_eq!((bare.margin, bare.strength), (None, None));
        let whole = r#"{"margin":2,"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"x"}],
            "rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"y"}]}"#;
        assert_eq!(content(whole).margin, Margin::new(2.0));
    }

    #[test]
    fn an_answer_after_a_prompt_is_left_out() {
        let json = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
        let record = Record::<PromptText>::prompt(json.as_bytes()).expect("a prompt");
        assert_eq!(record.content, PromptText::Chat(vec![user("a")]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let example = |json: &str| Record::example(json.as_bytes()).expect_err(json).message;
        let comparison = |json: &str| Record::comparison(json.as_bytes()).expect_err(json).message;
        let pair = |field: &str| comparison(&format!(r#"{{{field},"prompt":"p","chosen":"a","rejected":"b"}}"#));
        for (message, part) in [
            (example("{"), "the line is not valid JSON"),
            (example("{}"), "the record needs `prompt`"),
            (example(r#"{"prompt":"a"}"#), "`completion` is required"),
            (example(r#"{"prompt":"a","completion":""}"#), "`completion` must not be empty"),
            (example(r#"{"messages":[{"role":"user","content":"a"}]}"#), "must end with a message of role assistant"),
            (example(r#"{"messages":[{"role":"assistant","content":"a"}]}"#), "before the answer"),
            (example(r#"{"text":5}"#), "`text` must be a string, not a number"),
            (example(r#"{"text":"a","user":[]}"#), "`user` must be a string or a number"),
            (comparison(r#"{"prompt":"p","chosen":"a"}"#), "`rejected` is required"),
            (comparison(r#"{"chosen":"a","rejected":"b"}"#), "`prompt` is required"),
            (comparison(r#"{"prompt":"p","responses":["a","b"],"ranks":[1]}"#), "for each of 2 responses, not 1"),
            (comparison(r#"{"prompt":"p","responses":["a","b"],"ranks":[0,1]}"#), "integers from 1"),
            (comparison(r#"{"prompt":"p","responses":["a"],"ranks":[1]}"#), "2..=16 elements, not 1"),
            (comparison(r#"{"prompt":"p","responses":["a",""],"ranks":[1,2]}"#), "`responses[1]` must not be empty"),
            (pair(r#""margin":-0.5"#), "`margin` must be a finite number from 0 on, not -0.5"),
            (pair(r#""margin" : 1e999"#), "`margin` must be a finite number from 0 on, not inf"),
            (pair(r#""margin": NaN"#), "`margin` must be a finite number from 0 on, not NaN"),
            (pair(r#""margin":-Infinity"#), "`margin` must be a finite number from 0 on, not -inf"),
            (pair(r#""margin":"1""#), "`margin` must be a number, not a string"),
            (pair(r#""margin":nil"#), "the line is not valid JSON"),
            (pair(r#""strength":"very""#), r#"one of "significantly", "better", "slightly", "unsure", not "very""#),
            (pair(r#""strength":3"#), "`strength` must be one of"),
            (comparison(r#"{"prompt":"p","responses":["a","b"],"ranks":[1,2],"margin":1}"#), "--margin-per-rank"),
            (comparison(r#"{"prompt":"p","responses":["a","b"],"ranks":[1,2],"strength":"better"}"#), "`strength`"),
        ] {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}
