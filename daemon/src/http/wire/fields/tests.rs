//! Fields that are right, wrong, or not there.

use super::*;

fn fields(json: &str) -> Fields {
    Fields::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e:?}"))
}

#[test]
fn bodies_that_are_no_object_are_named_as_such() {
    for body in ["", "[]", "5", "\"x\"", "true", "null", "{", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}", "{\"a\":NaN}"] {
        let error = Fields::parse(body.as_bytes()).err().unwrap_or_else(|| panic!("{body} passed"));
        assert_eq!(error.param, None, "{body}");
    }
    assert!(Fields::parse(&[b'{', 0xff, b'}']).is_err());
    assert!(Fields::parse("[".repeat(100_000).as_bytes()).is_err(), "deep nesting must not overflow the stack");
}

#[test]
fn null_is_absent() {
    let mut f = fields(r#"{"a":null}"#);
    assert_eq!(f.boolean("a"), Ok(None));
    assert_eq!(f.integer("b", 0..=1), Ok(None));
}

#[test]
fn integers_are_exact_and_bounded() {
    for wrong in ["-1", "129", "1.5", "\"5\"", "true", "1e3", "9223372036854775808", "18446744073709551616"] {
        let error = fields(&format!(r#"{{"n":{wrong}}}"#)).count("n", 1..=128).expect_err(wrong);
        assert_eq!(error.param.as_deref(), Some("n"), "{wrong}");
    }
    for whole in ["128", "128.0", "1.28e2"] {
        assert_eq!(fields(&format!(r#"{{"n":{whole}}}"#)).count("n", 1..=128), Ok(Some(128)), "{whole}");
    }
    // The float next to -2^63 - 1 is -2^63.
    assert!(fields(r#"{"n":-9223372036854775809}"#).integer("n", i64::MIN..=i64::MAX).is_err());
    assert!(fields(r#"{"n":9007199254740993.0}"#).integer("n", i64::MIN..=i64::MAX).is_err(), "rounded");
}

#[test]
fn the_last_of_two_equal_keys_wins() {
    assert_eq!(fields(r#"{"n":1,"n":2}"#).count("n", 1..=128), Ok(Some(2)));
}

#[test]
fn texts_are_measured_in_characters() {
    for (text, is_short) in [("ééé", true), ("éééé", false), ("abc", true), ("abcd", false)] {
        assert_eq!(fields(&format!(r#"{{"a":"{text}"}}"#)).text("a", 3).is_ok(), is_short, "{text}");
    }
}

#[test]
fn nested_errors_carry_the_path() {
    let mut f = Fields::of(serde_json::json!({"include_usage": 1}), "stream_options").expect("an object");
    assert_eq!(
        f.boolean("include_usage").expect_err("a number").param.as_deref(),
        Some("stream_options.include_usage")
    );
}

#[test]
fn what_is_not_built_is_refused_unless_it_asks_for_nothing() {
    assert!(fields(r#"{"suffix":"x"}"#).refuse(&["suffix"]).is_err());
    for nothing in ["null", "false", "0", "\"\"", "[]", "{}"] {
        assert_eq!(fields(&format!(r#"{{"suffix":{nothing}}}"#)).refuse(&["suffix"]), Ok(()), "{nothing}");
    }
}
