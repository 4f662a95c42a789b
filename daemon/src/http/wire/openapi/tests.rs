//! The document against the parsers and the router.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{super::fields::record, *};
use crate::http::wire::{
    chat::ChatRequest,
    completion::CompletionRequest,
    feedback, forget, policy,
    rerank::{PredictRequest, RerankRequest},
    reward::{GetRewardRequest, RewardRequest},
    reward_model,
    score::{ScorePairsRequest, WholeRequest},
    tokens::{DetokenizeRequest, TokenizeRequest},
};

fn parsed() -> Value {
    serde_json::from_str(document(Needs { api_key: false, admin_key: false })).expect("the document is JSON")
}

/// Paths of all properties below a schema: `messages[].role`. A reference to what is being walked already ends there.
fn properties(document: &Value, schema: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
        return properties(document, &document["components"]["schemas"][name], prefix, found);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for inner in schema[key].as_array().into_iter().flatten() {
            properties(document, inner, prefix, found);
        }
    }
    if schema["items"].is_object() {
        properties(document, &schema["items"], &format!("{}[].", prefix.trim_end_matches('.')), found);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(format!("{prefix}{name}"));
        properties(document, inner, &format!("{prefix}{name}."), found);
    }
}

/// Fields that a parser looks at while it reads these bodies, all of which it must accept.
fn looked_at(parse: &dyn Fn(&[u8]) -> bool, bodies: &[&str]) -> BTreeSet<String> {
    let ((), names) = record::during(|| {
        for body in bodies {
            assert!(parse(body.as_bytes()), "{body} is refused");
        }
    });
    names
}

const TALK: &str = r#"[{"role":"user","content":[{"type":"text","text":"a"}]},
    {"role":"assistant","content":"b","tool_calls":[{"type":"function","function":{"name":"c","arguments":"{}"}}],
        "function_call":{"name":"d","arguments":{}}}]"#;

/// Fields that both generation routes have; of the forms of an answer at most one at a time.
const GENERATION: [&str; 4] = [
    r#""stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"response_format":{"type":"text"}"#,
    r#""structured_outputs":{"json":{}}"#,
    r#""response_format":{"type":"json_object","schema":{}}"#,
    r#""response_format":{"type":"json_schema","json_schema":{"schema":{}}}"#,
];

/// Whether a parser takes these bytes.
type Parse = Box<dyn Fn(&[u8]) -> bool>;

/// A schema's name, its parser, and bodies that lead through every branch of it.
fn parsers() -> Vec<(&'static str, Parse, Vec<String>)> {
    let talk = |rest: &str| format!(r#"{{"messages":{TALK}{rest}}}"#);
    vec![
        (
            "CompletionRequest",
            Box::new(|b| CompletionRequest::parse(b).is_ok()),
            GENERATION.map(|rest| format!(r#"{{"prompt":"a",{rest}}}"#)).into(),
        ),
        (
            "ChatRequest",
            Box::new(|b| ChatRequest::parse(b).is_ok()),
            GENERATION.map(|rest| talk(&format!(",{rest}"))).into(),
        ),
        (
            "TokenizeRequest",
            Box::new(|b| TokenizeRequest::parse(b).is_ok()),
            vec![talk(""), r#"{"content":"a"}"#.to_owned()],
        ),
        ("DetokenizeRequest", Box::new(|b| DetokenizeRequest::parse(b).is_ok()), vec![r#"{"tokens":[1]}"#.to_owned()]),
        (
            "RewardRequest",
            Box::new(|b| RewardRequest::parse(b).is_ok()),
            vec![format!(r#"{{"input":[{{"prompt":"a","completion":"b"}},{}]}}"#, talk(""))],
        ),
        ("GetRewardRequest", Box::new(|b| GetRewardRequest::parse(b).is_ok()), vec![r#"{"query":["a"]}"#.to_owned()]),
        (
            "ScoreRequest",
            Box::new(|b| ScorePairsRequest::parse(b).is_ok()),
            vec![r#"{"data_1":"a","data_2":"b"}"#.to_owned()],
        ),
        (
            "ClassifyRequest",
            Box::new(|b| WholeRequest::classify(b).is_ok()),
            vec![talk(""), r#"{"input":"a"}"#.to_owned()],
        ),
        (
            "PoolingRequest",
            Box::new(|b| WholeRequest::pooling(b).is_ok()),
            vec![talk(""), r#"{"input":"a"}"#.to_owned()],
        ),
        (
            "RerankRequest",
            Box::new(|b| RerankRequest::parse(b).is_ok()),
            vec![
                r#"{"query":"a","documents":[{"text":"b"}]}"#.to_owned(),
                r#"{"query":"a","texts":[{"text":"b"}]}"#.to_owned(),
            ],
        ),
        ("PredictRequest", Box::new(|b| PredictRequest::parse(b).is_ok()), vec![r#"{"inputs":"a"}"#.to_owned()]),
        (
            "FeedbackRequest",
            Box::new(|b| feedback::parse(b, 0).is_ok()),
            vec![r#"{"id":"cmpl-1","label":"up"}"#.to_owned()],
        ),
        (
            "LoadRequest",
            Box::new(|b| policy::LoadRequest::parse(b).is_ok()),
            vec![r#"{"path":"a.gguf","promote":true}"#.to_owned()],
        ),
        ("ActivationRequest", Box::new(|b| policy::expected_live(b).is_ok()), vec!["{}".to_owned()]),
        ("ForgetRequest", Box::new(|b| forget::user(b).is_ok()), vec![r#"{"user":"a"}"#.to_owned()]),
        ("RewardModelRequest", Box::new(|b| reward_model::order(b).is_ok()), vec!["{}".to_owned()]),
    ]
}

/// Goal: whoever reads the document knows every field, and none that is not there. Method: parse bodies that lead through
/// every branch, note what is looked at, and compare with the properties of the schema.
#[test]
fn schemas_hold_what_parsers_look_at() {
    let document = parsed();
    for (name, parse, bodies) in parsers() {
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "the document has no {name}");
        let mut described = BTreeSet::new();
        properties(&document, schema, "", &mut described);
        // One thing where a list of such may stand is read as a list of one.
        let in_lists: BTreeSet<String> = described.iter().filter(|name| name.contains("[]")).cloned().collect();
        described.retain(|name| !in_lists.contains(&name.replacen('.', "[].", 1)));
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        assert_eq!(described, looked_at(&parse, &bodies), "{name}: left is the schema, right the parser");
    }
}

/// Goal: no route is forgotten and none is made up. Method: the `.route(…)` lines of the router's source.
#[test]
fn the_document_has_every_route_of_the_router() {
    let source = include_str!("../../../http.rs");
    let lines = source.lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
    let routed: BTreeSet<(String, String)> = lines
        .map(|line| {
            let (path, handler) = line.split_once("\", ").expect("a path and a handler on one line");
            let method = handler.split('(').next().expect("a method");
            (path.replace("{*", "{"), method.to_owned())
        })
        .collect();
    let document = parsed();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| item.as_object().expect("an item").keys().map(|method| (path.clone(), method.clone())))
        .collect();
    assert!(routed.len() > 20, "{routed:?}");
    assert_eq!(described, routed);
}

/// Goal: answers of one generic type are told apart. Method: what the entries of three routes' lists are.
#[test]
fn lists_of_different_things_are_different_schemas() {
    let document = parsed();
    let entry = |path: &str| {
        let answer = &document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"];
        let name = answer["$ref"].as_str().and_then(|path| path.rsplit('/').next()).expect("a reference");
        document["components"]["schemas"][name]["properties"]["data"]["items"]["$ref"].clone()
    };
    let entries = ["/score", "/classify", "/pooling"].map(entry);
    assert_eq!(entries, ["ScoreEntry", "ClassEntry", "PoolEntry"].map(|name| format!("#/components/schemas/{name}")));
}

#[test]
fn references_lead_somewhere_and_errors_are_one_shape() {
    let document = parsed();
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().expect("a name");
        assert!(document["components"]["schemas"][name].is_object(), "nothing is called {name}");
    }
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{method} {path}");
            let error = &operation["responses"]["500"]["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(error, "#/components/schemas/Error", "{method} {path}");
        }
    }
}
