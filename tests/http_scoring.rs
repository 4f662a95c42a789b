//! Scores in every shape that a trainer or a re-ranker speaks: one judgement, whatever the route.

use serde_json::{Value, json};

use crate::harness::{
    TestDaemon,
    client::{self, Reply, request},
    model,
    process::Process,
};

/// A daemon with a reward model of random heads that all have this bias.
fn judging(n_heads: usize, bias: f32) -> (tempfile::TempDir, TestDaemon) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("reward.gguf");
    model::write_reward(&path, n_heads, bias);
    let daemon = TestDaemon::builder().set(format!("reward.model={}", path.display())).start();
    (folder, daemon)
}

#[track_caller]
fn check_close(what: &str, got: &Value, expected: f64) {
    let got = got.as_f64().unwrap_or_else(|| panic!("{what}: {got}"));
    // Batches are packed differently, which moves the last digits of f32.
    assert!((got - expected).abs() < 1e-4, "{what}: {got}, expected {expected}");
}

/// Goal: a pair has one score. Method: the same three pairs through every route that takes a prompt and a response.
#[test]
fn pairs_have_one_score_on_every_route() {
    let (_folder, daemon) = judging(1, 0.5);
    let (prompt, responses) = ("what color is the sky", ["a bear", "the ocean is vast", "sky"]);
    let input: Vec<Value> = responses.iter().map(|r| json!({"prompt": prompt, "completion": r})).collect();
    let ours = daemon.post("/v1/rewards", &json!({"model": "reward", "input": input})).ok();
    let scores: Vec<f64> = (0..3).map(|i| ours["data"][i]["score"].as_f64().expect("a score")).collect();
    assert!(scores[0] != scores[1] && scores[1] != scores[2], "{scores:?}");
    for path in ["/score", "/v1/score"] {
        for first in [json!(prompt), json!([prompt, prompt, prompt])] {
            let answer = daemon.post(path, &json!({"text_1": first, "text_2": responses})).ok();
            assert_eq!((&answer["object"], &answer["usage"]), (&json!("list"), &ours["usage"]), "{answer}");
            for (i, score) in scores.iter().enumerate() {
                assert_eq!((&answer["data"][i]["index"], &answer["data"][i]["object"]), (&json!(i), &json!("score")));
                check_close(path, &answer["data"][i]["score"], *score);
            }
        }
    }
    let pairs: Vec<Value> = responses.iter().map(|r| json!([prompt, r])).collect();
    let predictions = daemon.post("/predict", &json!({"inputs": pairs})).ok();
    for (i, score) in scores.iter().enumerate() {
        check_close("/predict", &predictions[i][0]["score"], *score);
    }
    let one = daemon.post("/predict", &json!({"inputs": [prompt, responses[1]], "raw_scores": true})).ok();
    check_close("/predict of one pair", &one[0]["score"], scores[1]);
    let squashed = daemon.post("/predict", &json!({"inputs": [prompt, responses[1]], "raw_scores": false})).ok();
    check_close("/predict squashed", &squashed[0]["score"], 1.0 / (1.0 + (-scores[1]).exp()));
}

#[test]
fn rerankers_put_the_best_first() {
    let (_folder, daemon) = judging(1, 0.0);
    let documents = ["a bear", "the ocean is vast", "sky", "meets a seal", "deep"];
    let scored = daemon.post("/score", &json!({"text_1": "the beach", "text_2": documents})).ok();
    let score = |index: usize| scored["data"][index]["score"].as_f64().expect("a score");
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let indices = |list: &Value| -> Vec<usize> {
        let list = list.as_array().expect("a list").iter();
        list.map(|entry| entry["index"].as_u64().expect("an index") as usize).collect()
    };
    for path in ["/rerank", "/v1/rerank"] {
        let ask = json!({"query": "the beach", "documents": documents, "top_n": 3, "return_documents": true});
        let answer = daemon.post(path, &ask).ok();
        assert_eq!(indices(&answer["results"]), order[..3], "{answer}");
        check_close(path, &answer["results"][0]["relevance_score"], score(order[0]));
        assert_eq!(answer["results"][0]["document"]["text"], documents[order[0]]);
        let tei = daemon.post(path, &json!({"query": "the beach", "texts": documents, "return_text": true})).ok();
        assert_eq!(indices(&tei), order, "{tei}");
        assert_eq!(tei[0]["text"], documents[order[0]]);
        check_close(path, &tei[4]["score"], score(order[4]));
    }
    let plain = daemon.post("/rerank", &json!({"query": "q", "documents": [{"text": "a"}, "b"]})).ok();
    assert_eq!(plain["results"].as_array().map(Vec::len), Some(2));
    assert!(plain["results"][0].get("document").is_none());
}

/// Goal: whole texts have the score of the conversation that they spell. Method: one conversation as messages, as text with
/// its special tokens, and as ids, through every route that takes such a thing.
#[test]
fn whole_texts_have_the_score_of_what_they_spell() {
    let (_folder, daemon) = judging(1, 0.25);
    let messages = json!([{"role": "user", "content": "the sky"}, {"role": "assistant", "content": "is vast"}]);
    let text = "<|user|>the sky<|assistant|>is vast<|endoftext|>";
    let ids = daemon.post("/tokenize", &json!({"prompt": text})).ok()["tokens"].clone();
    let ours = daemon.post("/v1/rewards", &json!({"input": [{"messages": messages}]})).ok();
    let score = ours["data"][0]["score"].as_f64().expect("a score");
    for input in
        [json!({"input": text}), json!({"input": [text]}), json!({"input": ids}), json!({"messages": messages})]
    {
        let class = daemon.post("/classify", &input).ok();
        check_close("/classify", &class["data"][0]["probs"][0], score);
        assert_eq!((&class["data"][0]["num_classes"], &class["data"][0]["label"]), (&json!(1), &json!("LABEL_0")));
        assert_eq!(class["usage"], ours["usage"], "{input}");
        let pool = daemon.post("/pooling", &input).ok();
        check_close("/pooling", &pool["data"][0]["data"][0], score);
        assert_eq!(pool["data"][0]["object"], "pooling");
    }
    check_close("/predict", &daemon.post("/predict", &json!({"inputs": text})).ok()[0]["score"], score);
    let query = json!({"query": [text], "prompts": ["<|user|>the sky<|assistant|>"], "labels": [""]});
    let openrlhf = daemon.post("/get_reward", &query).ok();
    check_close("/get_reward", &openrlhf["rewards"][0], score);
    assert_eq!(openrlhf["scores"], openrlhf["rewards"]);
    check_close("/get_reward", &openrlhf["extra_logs"]["reward_mean"], score);
}

/// Goal: whoever reads a score can tell who gave it, and can insist on it. Method: header and field on every route, the
/// entry of the model list, and requests that pin the right version and another one.
#[test]
fn scores_say_who_judged() {
    let (_folder, daemon) = judging(3, 0.0);
    let entry = daemon.get("/v1/models/reward").ok();
    let version = entry["reward_version"].as_str().expect("a version").to_owned();
    assert!(version.starts_with("model@") && version.ends_with("/mean"), "{version}");
    let pair = json!({"text_1": "a", "text_2": "b"});
    let routes: [(&str, Value); 7] = [
        ("/v1/rewards", json!({"input": [{"prompt": "a", "completion": "b"}]})),
        ("/get_reward", json!({"query": ["ab"]})),
        ("/score", pair.clone()),
        ("/classify", json!({"input": "a"})),
        ("/pooling", json!({"input": "a"})),
        ("/rerank", json!({"query": "a", "documents": ["b"]})),
        ("/predict", json!({"inputs": "a"})),
    ];
    for (path, body) in routes {
        let reply = daemon.post(path, &body);
        assert_eq!(reply.header("x-honed-reward-version"), Some(version.as_str()), "{path}");
        let answer = reply.ok();
        let field = answer.get("reward_version");
        assert!(field.is_none_or(|field| *field == version), "{path}: {answer}");
        let list = answer.get("data").or_else(|| answer.get("results"));
        assert!(list.is_none_or(|list| list[0]["std"].as_f64().is_some_and(|std| std > 0.0)), "{path}: {answer}");
    }
    let squashed = daemon.post("/score", &json!({"text_1": "a", "text_2": "b", "use_activation": true})).ok();
    assert!(squashed["data"][0].get("std").is_none(), "a spread in score units has no meaning there");
    let ask = |model: &str| {
        let mut body = pair.clone();
        body["model"] = model.into();
        daemon.post("/score", &body)
    };
    let pinned = format!("reward@{}", version.strip_prefix("model@").expect("a model judges"));
    assert_eq!(ask(&pinned).ok()["model"], *pinned);
    assert_eq!(daemon.get(&format!("/v1/models/{pinned}")).ok()["id"], *pinned);
    for model in ["reward@0", "policy", "sft", "reward@", "gpt-4"] {
        assert_eq!(ask(model).error(404)["code"], "model_not_found", "{model}");
    }
}

/// Goal: nothing is cut that the client did not want cut. Method: a response longer than the window on every route, plain,
/// then with each peer's word for cutting.
#[test]
fn over_long_inputs_are_refused_unless_they_may_be_cut() {
    let (_folder, daemon) = judging(1, 0.0);
    let long = "the ocean is vast and deep ".repeat(model::WINDOW);
    let cases = [
        ("/v1/rewards", "input[0]", json!({"input": [{"prompt": "a", "completion": long}]})),
        ("/get_reward", "query[0]", json!({"query": [long]})),
        ("/score", "text_2[1]", json!({"text_1": "a", "text_2": ["b", long]})),
        ("/classify", "input[0]", json!({"input": long})),
        ("/pooling", "input[0]", json!({"input": [long]})),
        ("/rerank", "documents[0]", json!({"query": "a", "documents": [long]})),
        ("/rerank", "texts[0]", json!({"query": "a", "texts": [long]})),
        ("/predict", "inputs", json!({"inputs": long})),
        ("/predict", "inputs[1]", json!({"inputs": [["a"], [long]]})),
    ];
    for (path, param, mut body) in cases {
        assert_eq!(daemon.post(path, &body).error(400)["param"], param, "{path}");
        body["truncate"] = true.into();
        daemon.post(path, &body).ok();
    }
    let n_read = |options: Value| {
        let mut body = json!({"input": long});
        body.as_object_mut().expect("an object").extend(options.as_object().expect("options").clone());
        daemon.post("/classify", &body).ok()["usage"]["prompt_tokens"].clone()
    };
    assert_eq!(n_read(json!({"truncate": true})), model::WINDOW);
    assert_eq!(n_read(json!({"truncate_prompt_tokens": -1})), model::WINDOW);
    assert_eq!(n_read(json!({"truncate_prompt_tokens": 9, "truncation_side": "right"})), 9);
    let only_prompt = json!({"text_1": long, "text_2": "b", "truncate": true, "truncation_direction": "right"});
    assert_eq!(daemon.post("/score", &only_prompt).error(400)["param"], "text_2[0]", "nothing to judge is left");
}

/// Goal: a prompt is in memory once, however many responses it has. Method: a prompt that fills a body beside as many responses as
/// there may be, on each route that has such a thing: refused, and cut to a few tokens each; what the process took at most.
#[test]
fn one_long_prompt_with_many_responses_takes_no_more_than_both() {
    let (folder, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("reward.gguf");
    model::write_reward(&path, 1, 0.0);
    let sets = ["ppo.enabled=false".to_owned(), format!("reward.model={}", path.display())];
    let process = Process::serve(data.path(), &sets.each_ref().map(String::as_str));
    let (long, responses) = ("a".repeat(1_900_000), vec!["b"; 4096]);
    let bodies = [
        ("/score", "text_2", json!({"text_1": long, "text_2": responses})),
        ("/rerank", "documents", json!({"query": long, "documents": responses})),
    ];
    for (path, name, mut body) in bodies {
        let post = |body: &Value| {
            let body = body.to_string();
            client::raw(
                process.address,
                &request("POST", path, &[("content-type", "application/json")], body.as_bytes()),
            )
        };
        let error = post(&body).error(400);
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("context_length_exceeded"), &json!(format!("{name}[0]")))
        );
        body["truncate_prompt_tokens"] = json!(4);
        assert_eq!(post(&body).ok()["usage"]["prompt_tokens"], 4 * 4096, "{path}");
    }
    let peak = process.peak_kib();
    assert!(peak < 1 << 20, "{peak} KiB");
}

/// Goal: a number that is none is an error and never a score. Method: a reward model that knows no letters.
#[test]
fn scores_that_are_no_numbers_are_errors_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("reward.gguf");
    model::write_mute_reward(&path);
    let daemon = TestDaemon::builder().set(format!("reward.model={}", path.display())).start();
    for (path, body) in [
        ("/score", json!({"text_1": "a", "text_2": ["b", "c"]})),
        ("/v1/rewards", json!({"input": [{"prompt": "a", "completion": "b"}]})),
        ("/predict", json!({"inputs": "a", "raw_scores": false})),
    ] {
        let error = daemon.post(path, &body).error(500);
        assert_eq!(error["code"], "internal_error", "{path}");
        assert!(!error["message"].as_str().expect("a text").contains("inf"), "causes stay inside: {error}");
    }
    assert_eq!(daemon.metric("honed_score_non_finite_total"), 4.0);
    assert_eq!(daemon.metric("honed_score_failures_total"), 4.0);
    daemon.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}

#[test]
fn wrong_inputs_are_named_and_the_next_request_works() {
    let (_folder, daemon) = judging(1, 0.0);
    let many = vec!["a"; 10_000];
    let cases = [
        ("/score", "text_1", json!({})),
        ("/score", "text_2", json!({"text_1": "a"})),
        ("/score", "text_2", json!({"text_1": "a", "text_2": []})),
        ("/score", "text_1", json!({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]})),
        ("/score", "text_2", json!({"text_1": "a", "text_2": many})),
        ("/score", "text_2", json!({"text_1": "a", "text_2": [1]})),
        ("/score", "truncate", json!({"text_1": "a", "text_2": "b", "truncate": "yes"})),
        ("/classify", "input", json!({"input": []})),
        ("/classify", "input[0]", json!({"input": [100_000]})),
        ("/pooling", "task", json!({"input": "a", "task": "embed"})),
        ("/rerank", "query", json!({"documents": ["a"]})),
        ("/rerank", "documents", json!({"query": "a", "documents": []})),
        ("/rerank", "documents", json!({"query": "a", "documents": "b"})),
        ("/rerank", "documents", json!({"query": "a", "documents": many})),
        ("/predict", "inputs", json!({"inputs": []})),
        ("/predict", "inputs", json!({"inputs": {"a": 1}})),
    ];
    for (path, param, body) in cases {
        let error = daemon.post(path, &body).error(400);
        assert_eq!(error["param"], param, "{path}: {error}");
    }
    daemon.post("/score", &json!({"text_1": "a", "text_2": "b"})).ok();
}

#[test]
fn without_a_judge_scores_are_not_found() {
    let daemon = TestDaemon::start();
    let reply: Reply = daemon.post("/score", &json!({"text_1": "a", "text_2": "b"}));
    assert_eq!(reply.error(404)["code"], "not_found");
}
