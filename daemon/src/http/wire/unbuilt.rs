//! Fields of vLLM, llama-server and their kin that would change an answer and are not built: refused by name, never ignored.
//!
//! A field that is neither here nor read changes no answer: it says where a request runs (`id_slot`, `priority`), how its answer
//! is found faster (`cache_prompt`, `speculative.n_max`), or tunes what is off without a field of this list (`mirostat_tau`,
//! `dry_base`).

use serde_json::Value;

use super::fields::{FieldError, Fields, asks_for_nothing};

/// Refused unless they ask for nothing.
const NOT_BUILT: &[&str] = &[
    // vLLM: how it draws.
    "allowed_token_ids",
    "bad_words",
    "guided_whitespace_pattern",
    "include_stop_str_in_output",
    "logits_processors",
    "repetition_detection",
    "thinking_token_budget",
    "use_beam_search",
    "vllm_xargs",
    // vLLM: what it reads and tells.
    "chat_template",
    "continue_final_message",
    "documents",
    "kv_transfer_params",
    "logprob_token_ids",
    "prompt_logprob_start",
    "prompt_logprob_token_ids",
    "return_tokens_as_token_ids",
    // llama-server: how it draws.
    "dry_multiplier",
    "dynatemp_range",
    "grammar_lazy",
    "grammar_triggers",
    "lora",
    "min_keep",
    "mirostat",
    "n_indent",
    "samplers",
    "xtc_probability",
    // llama-server: what it reads and tells.
    "chat_format",
    "chat_parser",
    "image_data",
    "multimodal_data",
    "n_probs",
    "parse_tool_calls",
    "post_sampling_probs",
    "preserved_tokens",
    "response_fields",
    "return_progress",
    "return_tokens",
    "thinking_forced_open",
    "timings_per_token",
    // SGLang, TGI, mistral.rs.
    "adapter",
    "adapter_id",
    "custom_logit_processor",
    "ebnf",
    "enable_thinking",
    "lora_path",
    "no_stop_trim",
    "regex",
    "return_hidden_states",
    "stop_regex",
    "truncate_sequence",
];
/// Of these only the value that changes nothing is built.
const ONLY_TRUE: [&str; 4] = ["skip_special_tokens", "add_special_tokens", "detokenize", "include_reasoning"];
const ONLY_ONE: [&str; 3] = ["repeat_penalty", "typical_p", "length_penalty"];
/// Limits of another kind than ours: refused unless they ask for nothing, or, with -1, for no limit.
const NO_LIMIT: [&str; 2] = ["n_predict", "truncate_prompt_tokens"];
/// Nothing tells a model how much to think,
const ONLY_NONE: [&str; 1] = ["reasoning_effort"];
/// and what it thinks aloud stays in its text. llama-server's own page leaves the format to the server in every request.
const NONE_OR_AUTO: [&str; 1] = ["reasoning_format"];
const ONLY_MEDIUM: [&str; 1] = ["verbosity"];
/// llama-server's clients turn these off with a number that is not above 0.
const ONLY_NOT_ABOVE_0: [&str; 2] = ["t_max_predict_ms", "top_n_sigma"];
/// And these with one below it.
const ONLY_BELOW_0: [&str; 2] = ["adaptive_target", "reasoning_budget_tokens"];
/// Each with the value at which it does nothing.
const PENALTIES: [(&str, f64); 3] =
    [("presence_penalty", 0.0), ("frequency_penalty", 0.0), ("repetition_penalty", 1.0)];

/// Refuses them.
pub(super) fn refuse(f: &mut Fields) -> Result<(), FieldError> {
    penalties_of_all_tokens(f)?;
    f.refuse(NOT_BUILT)?;
    f.refuse_but(&NO_LIMIT, |value| asks_for_nothing(value) || value.as_f64() == Some(-1.0), "must be -1")?;
    f.refuse_but(&ONLY_TRUE, |value| *value == true, "must be true")?;
    f.refuse_but(&ONLY_ONE, |value| value.as_f64() == Some(1.0), "must be 1")?;
    f.refuse_but(&ONLY_NONE, |value| value == "none", "must be \"none\"")?;
    f.refuse_but(&NONE_OR_AUTO, |value| value == "none" || value == "auto", "must be \"none\" or \"auto\"")?;
    f.refuse_but(&ONLY_MEDIUM, |value| value == "medium", "must be \"medium\"")?;
    f.refuse_but(&ONLY_NOT_ABOVE_0, |value| value.as_f64().is_some_and(|x| x <= 0.0), "must not be above 0")?;
    f.refuse_but(&ONLY_BELOW_0, |value| value.as_f64().is_some_and(|x| x < 0.0), "must be below 0")
}

/// As [`refuse`], where a template writes the special tokens of a conversation: vLLM's clients say that none are added to them.
pub(super) fn refuse_in_chat(f: &mut Fields) -> Result<(), FieldError> {
    f.refuse_but(&["add_special_tokens"], Value::is_boolean, "must be true or false")
}

/// Penalties here know all tokens of an answer; llama-server's `repeat_last_n` asks for the last few. Its clients send it by
/// habit, so it is refused only beside a penalty.
fn penalties_of_all_tokens(f: &Fields) -> Result<(), FieldError> {
    let number = |name: &str| f.peek(name).and_then(Value::as_f64);
    let is_on = |(name, off): &(&str, f64)| number(name).is_some_and(|penalty| penalty != *off);
    let asks_for_few = f.peek("repeat_last_n").is_some_and(|n| !n.is_null() && n.as_f64() != Some(-1.0));
    match PENALTIES.iter().find(|penalty| is_on(penalty)) {
        Some((name, _)) if asks_for_few => {
            Err(f.error("repeat_last_n", &format!("must be -1 beside `{name}` in this version of honed")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> Option<String> {
        refuse(&mut Fields::parse(json.as_bytes()).expect("an object")).err().and_then(|error| error.param)
    }

    /// Goal: no field that is not built is taken silently. Method: what somebody who wants something of it sends.
    #[test]
    fn what_asks_for_something_is_refused_by_name() {
        let lists = [&NO_LIMIT[..], &ONLY_NONE, &NONE_OR_AUTO, &ONLY_MEDIUM, &ONLY_NOT_ABOVE_0, &ONLY_BELOW_0].concat();
        let asking = NOT_BUILT.iter().chain(&lists).map(|name| (*name, ["1", "\"high\"", "[1]"]));
        for (name, values) in asking {
            let is_number = ONLY_NOT_ABOVE_0.contains(&name) || ONLY_BELOW_0.contains(&name);
            let asks = if is_number { &values[..2] } else { &values[1..] };
            for value in asks {
                assert_eq!(refused(&format!(r#"{{"{name}":{value}}}"#)).as_deref(), Some(name), "{value}");
            }
        }
        for (name, value) in [
            ("n_probs", "5"),
            ("n_predict", "-2"),
            ("truncate_prompt_tokens", "5"),
            ("add_special_tokens", "false"),
            ("return_tokens", "true"),
            ("t_max_predict_ms", "0.5"),
            ("top_n_sigma", "2.0"),
            ("adaptive_target", "0"),
            ("dynatemp_range", "0.1"),
            ("samplers", r#"["top_k"]"#),
            ("prompt_logprob_token_ids", "[7]"),
            ("reasoning_effort", "\"low\""),
            ("skip_special_tokens", "false"),
            ("include_reasoning", "false"),
            ("repeat_penalty", "1.1"),
        ] {
            assert_eq!(refused(&format!(r#"{{"{name}":{value}}}"#)).as_deref(), Some(name), "{value}");
        }
    }

    /// Goal: clients that send every field with its default are answered. Method: the defaults of llama-server's and vLLM's
    /// clients, and nulls.
    #[test]
    fn what_changes_nothing_passes() {
        for name in NOT_BUILT.iter().chain(&NO_LIMIT) {
            for nothing in ["null", "false", "0", "\"\"", "[]", "{}"] {
                assert_eq!(refused(&format!(r#"{{"{name}":{nothing}}}"#)), None, "{name} {nothing}");
            }
        }
        let habits = r#"{"t_max_predict_ms":-1,"top_n_sigma":-1.0,"adaptive_target":-1,"reasoning_budget_tokens":-1,
            "dynatemp_range":0.0,"dynatemp_exponent":1.0,"typical_p":1.0,"repeat_penalty":1.0,"repeat_last_n":64,
            "presence_penalty":0.0,"frequency_penalty":0,"repetition_penalty":1.0,"dry_multiplier":0.0,"dry_base":1.75,
            "mirostat":0,"mirostat_tau":5.0,"min_keep":0,"n_keep":0,"n_probs":0,"cache_prompt":true,"id_slot":-1,
            "include_reasoning":true,"reasoning_effort":"none","reasoning_format":"none","verbosity":"medium",
            "spaces_between_special_tokens":true,"priority":0,"parallel_tool_calls":true,"vllm_xargs":null}"#;
        assert_eq!(refused(habits), None);
        assert_eq!(refused(r#"{"reasoning_format":"auto","n_predict":-1,"truncate_prompt_tokens":-1}"#), None);
        for (value, passes) in [("false", true), ("true", true), ("null", true), ("1", false)] {
            let chat = format!(r#"{{"add_special_tokens":{value}}}"#);
            let mut f = Fields::parse(chat.as_bytes()).expect("an object");
            assert_eq!(refuse_in_chat(&mut f).and_then(|()| refuse(&mut f)).is_ok(), passes, "{chat}");
        }
    }

    #[test]
    fn a_penalty_of_the_last_tokens_is_refused_only_beside_a_penalty() {
        for penalty in ["presence_penalty", "frequency_penalty", "repetition_penalty"] {
            let with = |n: &str| refused(&format!(r#"{{"{penalty}":0.5,"repeat_last_n":{n}}}"#));
            assert_eq!(with("64").as_deref(), Some("repeat_last_n"), "{penalty}");
            assert_eq!(with("0").as_deref(), Some("repeat_last_n"), "{penalty}");
            assert_eq!([with("-1"), with("null")], [None, None], "{penalty}");
        }
    }
}
