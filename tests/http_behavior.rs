//! The log-probability of the distribution that was really drawn from, beside that of the model's own: what importance weights are
//! made of.

use serde_json::{Value, json};

use crate::harness::TestDaemon;

/// Tokens of one answer at most.
const TOKENS: usize = 24;

/// What each token of an answer is told with: the model's own log-probability, and that of what was drawn from.
type Draws = Vec<[f64; 2]>;

/// Where to ask, what, and how the answer tells its draws.
type Route = (&'static str, Value, fn(&Value) -> Draws);

/// On both routes, whole and streamed.
fn draws(daemon: &TestDaemon, fields: &Value) -> Vec<Draws> {
    let routes: [Route; 2] = [
        ("/v1/completions", json!({"prompt": "the ocean"}), legacy),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "what color is the sky"}]}), chat),
    ];
    let mut all = Vec::new();
    for (path, mut body, read) in routes {
        let fixed = json!({"max_tokens": TOKENS, "seed": 5, "return_behavior_logprobs": true});
        for more in [&fixed, fields] {
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        }
        all.push(read(&daemon.post(path, &body).ok()["choices"][0]["logprobs"]));
        body["stream"] = true.into();
        let events = daemon.stream(path, &body).events();
        all.push(events.iter().flat_map(|event| read(&event["choices"][0]["logprobs"])).collect());
    }
    assert!(all.iter().all(|draws| draws.len() > 1), "{all:?}");
    all
}

/// Four arrays and a fifth.
fn legacy(log_probs: &Value) -> Draws {
    let numbers = |name: &str| {
        let list = log_probs[name].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|number| number.as_f64().expect("a number")).collect::<Vec<f64>>()
    };
    let (own, behavior) = (numbers("token_logprobs"), numbers("behavior_logprobs"));
    assert_eq!(own.len(), behavior.len(), "{log_probs}");
    own.into_iter().zip(behavior).map(|(own, behavior)| [own, behavior]).collect()
}

/// A list of objects.
fn chat(log_probs: &Value) -> Draws {
    let list = log_probs["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|token| ["logprob", "behavior_logprob"].map(|name| token[name].as_f64().expect("a number")))
        .collect()
}

/// Goal: a draw of which only one token was left is certain, however improbable the model holds the token. Method: the most
/// probable token at temperature 1, and at temperature 0.
#[test]
fn a_draw_without_a_choice_is_certain() {
    let daemon = TestDaemon::start();
    for fields in [json!({"top_k": 1}), json!({"temperature": 0})] {
        for draws in draws(&daemon, &fields) {
            assert!(draws.iter().all(|[own, behavior]| *own < -1e-3 && behavior.abs() < 1e-6), "{fields}: {draws:?}");
        }
    }
}

/// Goal: an untruncated draw at temperature 1 is one from the model's own distribution. Method: both numbers of each token.
#[test]
fn the_models_own_distribution_is_told_as_itself() {
    let daemon = TestDaemon::start();
    for draws in draws(&daemon, &json!({"temperature": 1})) {
        assert!(draws.iter().all(|[own, behavior]| (own - behavior).abs() < 1e-5), "{draws:?}");
    }
}

/// Goal: what was drawn from another distribution is told so. Method: temperatures to both sides of 1; and truncations and
/// a ban of the end token, which make every token that is left more probable.
#[test]
fn another_temperature_or_a_truncation_is_told() {
    let daemon = TestDaemon::start();
    for fields in [json!({"temperature": 0.7}), json!({"temperature": 1.5})] {
        for draws in draws(&daemon, &fields) {
            assert!(draws.iter().any(|[own, behavior]| (own - behavior).abs() > 1e-3), "{fields}: {draws:?}");
        }
    }
    for fields in [json!({"top_k": 5}), json!({"top_p": 0.5}), json!({"ignore_eos": true})] {
        for draws in draws(&daemon, &fields) {
            assert!(draws.iter().all(|[own, behavior]| behavior > own && *behavior <= 0.0), "{fields}: {draws:?}");
        }
    }
}

/// Goal: nobody is told who did not ask. Method: both routes with log-probs and without the field.
#[test]
fn behavior_is_told_only_when_asked_for() {
    let daemon = TestDaemon::start();
    let legacy = daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2, "logprobs": 1})).ok();
    assert!(legacy["choices"][0]["logprobs"].get("behavior_logprobs").is_none(), "{legacy}");
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "logprobs": true});
    let chat = daemon.post("/v1/chat/completions", &body).ok();
    assert!(chat["choices"][0]["logprobs"]["content"][0].get("behavior_logprob").is_none(), "{chat}");
}
