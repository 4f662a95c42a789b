use super::*;
use crate::rollout::FinishReason;

fn constrained(test: &TestEngine, grammar: Grammar, n: u32) -> Vec<Choice> {
    let mut ask = Ask::exactly(test.tokens("the user said"), 200);
    ask.sampling.ignore_eos = false;
    let constraint = Some(test.engine.constrain(grammar).unwrap());
    test.ask(Ask { n, constraint, ..ask })
}

#[test]
fn responses_belong_to_the_language_and_end_by_themselves() {
    let test = TestEngine::new();
    let digits = |text: &str| (2..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    for choice in constrained(&test, Grammar::Regex("[0-9]{2,4}".into()), 6) {
        assert!(digits(&choice.text), "{:?}", choice.text);
        assert_eq!(choice.finished.rollout.finish, FinishReason::EndToken);
        assert!(choice.finished.rollout.sampling.constrained, "the learner must know");
        check_replay(&test.engine, &choice, 1e-3);
    }
    let choices = ["yes", "no", "the user \"é\""].map(str::to_owned);
    for choice in constrained(&test, Grammar::Choice(choices.to_vec()), 6) {
        assert!(choices.contains(&choice.text), "{:?}", choice.text);
    }
    let schema = r#"{"type":"object","properties":{"a":{"type":"boolean"},"b":{"enum":["x","y"]}},
        "required":["a","b"],"additionalProperties":false,"x-guidance":{"whitespace_flexible":false}}"#;
    for choice in constrained(&test, Grammar::JsonSchema(schema.into()), 6) {
        let is_one = ["true", "false"]
            .iter()
            .any(|a| ["x", "y"].iter().any(|b| choice.text == format!("{{\"a\":{a},\"b\":\"{b}\"}}")));
        assert!(is_one, "{:?}", choice.text);
    }
    let lark = "start: \"(\" start \")\" | \"x\"".to_owned();
    for choice in constrained(&test, Grammar::Lark(lark), 4) {
        let depth = choice.text.find('x').unwrap();
        assert_eq!(choice.text, format!("{}x{}", "(".repeat(depth), ")".repeat(depth)));
    }
}

/// Goal: a response ends, even if the model likes nothing better than blanks, which JSON allows without end. Method: a random
/// model, for which a space is as likely as a brace, and a limit that only bounded blanks keep.
#[test]
fn blanks_between_the_parts_of_json_are_bounded() {
    let test = TestEngine::new();
    let schema =
        r#"{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"],"additionalProperties":false}"#;
    for choice in constrained(&test, Grammar::JsonSchema(schema.into()), 12) {
        assert_eq!(choice.finished.rollout.finish, FinishReason::EndToken, "{:?}", choice.text);
        let longest = choice.text.split(|c: char| !c.is_whitespace()).map(str::len).max();
        assert!(longest <= Some(21), "{:?}", choice.text);
        let parts: String = choice.text.split_whitespace().collect();
        assert!(parts == r#"{"a":true}"# || parts == r#"{"a":false}"#, "{:?}", choice.text);
    }
}

/// Goal: the behavior log-prob is that of the distribution really drawn from. Method: at temperature 1, what the mask left
/// plus the log of its mass is the raw log-prob; where the grammar leaves one token, the draw is certain.
#[test]
fn behavior_log_probs_are_those_of_the_masked_distribution() {
    let test = TestEngine::new();
    for choice in constrained(&test, Grammar::Regex("[ab]c".into()), 8) {
        let [first, second, end] = choice.streamed[..] else { panic!("{:?}", choice.text) };
        for token in [first, second, end] {
            assert!((token.behavior.0 + token.log_kept_mass - token.log_prob.0).abs() < 1e-4, "{token:?}");
        }
        assert!(first.behavior.0 < -1e-6 && first.log_kept_mass < -1e-3);
        assert!(second.behavior.0 > -1e-6 && end.behavior.0 > -1e-6);
    }
}

#[test]
fn hostile_and_broken_grammars_are_refused_and_the_next_good_one_works() {
    let test = TestEngine::new();
    let bad = [
        Grammar::Regex("(".repeat(60)),
        Grammar::Regex("(?=a)b".into()),
        Grammar::Lark("start: nowhere".into()),
        Grammar::Lark("start ::= \"a\"".into()),
        Grammar::JsonSchema(r#"{"type":"nothing"}"#.into()),
        Grammar::JsonSchema(r##"{"$ref":"#/nowhere"}"##.into()),
        Grammar::JsonSchema(r#"{"$ref":"http://169.254.169.254/schema"}"#.into()),
    ];
    for grammar in bad {
        let error = test.engine.constrain(grammar.clone()).err();
        assert!(matches!(error, Some(GrammarError::Invalid(_))), "{grammar:?} gave {error:?}");
    }
    // Repetitions cost when they are unrolled, and these are not.
    for regex in ["(a+)+b", "((a{1,1000}){1,1000}){1,1000}"] {
        let choice = constrained(&test, Grammar::Regex(regex.into()), 1).remove(0);
        assert!(choice.text.bytes().all(|byte| b"ab".contains(&byte)), "{:?}", choice.text);
    }
    assert_eq!(constrained(&test, Grammar::Choice(vec!["ok".into()]), 1)[0].text, "ok");
}

#[test]
fn a_grammar_says_itself_when_a_response_may_end() {
    let test = TestEngine::new();
    let constraint = test.engine.constrain(Grammar::Choice(vec!["ok".into()])).unwrap();
    let ask = Ask { constraint: Some(constraint), ..Ask::exactly(test.tokens("the"), 9) };
    let field = |ask: Ask| match test.submit(Target::Live, ask) {
        Err(Rejection::Invalid(e)) => e.field,
        other => panic!("{}", other.is_ok()),
    };
    assert_eq!(field(ask.clone()), "ignore_eos");
    let sampling = SamplingParams { ignore_eos: false, min_tokens: 2, ..ask.sampling.clone() };
    assert_eq!(field(Ask { sampling, ..ask }), "min_tokens");
}

/// Goal: a grammar that becomes too dear midway ends its own request, with a reason that quotes nobody, and no other. Method: one
/// whose readings multiply with every letter.
#[test]
fn a_grammar_beyond_its_budget_ends_its_request_alone() {
    let test = TestEngine::new();
    let readings = "start: s\ns: \"a\" | s s | s s s | s s s s | s s s s s".to_owned();
    let constraint = Some(test.engine.constrain(Grammar::Lark(readings)).unwrap());
    let mut ask = Ask::exactly(test.tokens("the user said"), 200);
    ask.sampling.ignore_eos = false;
    ask.sampling.logit_bias = test.engine.vocabulary().end_tokens().map(|id| (id, -100.0)).collect();
    let answer = test.submit(Target::Live, Ask { constraint, ..ask }).unwrap();
    let last = answer.events.iter().last().expect("an end");
    let Event::Failed(Failure::Grammar(reason)) = &last else { panic!("{last:?}") };
    assert!(reason.contains("12500 items") && !reason.contains("aa"), "{reason}");
    assert_eq!(test.engine.stats().failed, 0, "the engine is well");
    assert_eq!(constrained(&test, Grammar::Choice(vec!["ok".into()]), 1)[0].text, "ok");
}
