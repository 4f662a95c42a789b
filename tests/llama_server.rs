//! What llama.cpp's own tests of its server assert and no other test of ours does; `README.md` beside this file maps all of
//! theirs. Their model is another, so their words and counts are not ours: counts are held to the tokenizer, texts to the
//! same request asked in another way.

use serde_json::{Value, json};

use crate::harness::{TestDaemon, client::Reply, model::WINDOW};

const PROMPT: &str = "the ocean is vast and deep";

fn complete(daemon: &TestDaemon, fields: Value) -> Value {
    daemon.post("/v1/completions", &with(json!({"prompt": PROMPT}), fields)).ok()
}

/// The first object, with the fields of the second over its own.
fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("an object") };
    body.as_object_mut().expect("an object").extend(fields);
    body
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().expect("a text")
}

fn n_tokens(daemon: &TestDaemon, body: Value) -> u64 {
    daemon.post("/tokenize", &body).ok()["count"].as_u64().expect("a count")
}

fn ids(daemon: &TestDaemon, text: &str) -> Vec<u64> {
    let answer = daemon.post("/tokenize", &json!({"content": text, "add_special": true})).ok();
    answer["tokens"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect()
}

/// Goal: what was read and drawn is counted exactly, whole and streamed, on both routes. Method: the tokenizer's own count,
/// and an end token that is not drawn.
#[test]
fn tokens_are_counted_exactly() {
    let daemon = TestDaemon::start();
    let messages =
        json!([{"role": "system", "content": "the sky"}, {"role": "user", "content": "what color is the sky"}]);
    let routes =
        [("/v1/completions", json!({"prompt": PROMPT})), ("/v1/chat/completions", json!({"messages": messages}))];
    for (path, body) in routes {
        let n_prompt = n_tokens(&daemon, body.clone());
        for n in [1, 8, 64] {
            let body = with(body.clone(), json!({"max_tokens": n, "ignore_eos": true}));
            let usage = json!([n_prompt, n, n_prompt + n]);
            let counts = |answer: &Value| {
                json!(["prompt_tokens", "completion_tokens", "total_tokens"].map(|key| answer["usage"][key].clone()))
            };
            let whole = daemon.post(path, &body).ok();
            assert_eq!(counts(&whole), usage, "{path}");
            assert_eq!(whole["choices"][0]["finish_reason"], "length");
            let streamed = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
            let events = daemon.stream(path, &streamed).events();
            let (last, chunks) = events.split_last().expect("events");
            assert_eq!(counts(last), usage, "{path}");
            let (end, before) = chunks.split_last().expect("chunks");
            assert_eq!(end["choices"][0]["finish_reason"], "length");
            assert!(
                before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()),
                "only the last one ends"
            );
        }
    }
}

#[test]
fn token_ids_come_when_asked_for_and_only_then() {
    let daemon = TestDaemon::start();
    let plain = complete(&daemon, json!({"max_tokens": 8}));
    assert!(plain["choices"][0].get("token_ids").is_none(), "{plain}");
    let asked = json!({"max_tokens": 8, "return_token_ids": true, "ignore_eos": true});
    let whole = complete(&daemon, asked.clone());
    assert_eq!(whole["choices"][0]["token_ids"].as_array().map(Vec::len), Some(8));
    let events = daemon.stream("/v1/completions", &with(json!({"prompt": PROMPT, "stream": true}), asked)).events();
    let streamed = events.iter().filter_map(|event| event["choices"][0]["token_ids"].as_array()).map(Vec::len);
    assert_eq!(streamed.sum::<usize>(), 8);
}

/// Goal: the same seed is the same text, whatever slot it gets, however the prompt is cut, whether its beginning is known;
/// another seed is another text. Method: daemons that differ in just that, each asked again and again.
#[test]
fn a_seed_is_a_text_and_another_seed_another() {
    let settings = [
        ["policy.parallel=1", "policy.prefix_cache_tokens=0"],
        ["policy.parallel=2", "policy.prefix_cache_tokens=8192"],
        ["policy.parallel=4", "policy.batch_tokens=32"],
    ];
    let long = PROMPT.repeat(6);
    let mut known: Option<Vec<String>> = None;
    for sets in settings {
        let daemon = sets.iter().fold(TestDaemon::builder(), |builder, set| builder.set(*set)).start();
        let ask = |seed: u64, temperature: f64| {
            let body =
                json!({"prompt": long, "seed": seed, "temperature": temperature, "max_tokens": 24, "ignore_eos": true});
            text(&daemon.post("/v1/completions", &body).ok()).to_owned()
        };
        let texts: Vec<String> = (0..4).map(|seed| ask(seed, 1.0)).chain([ask(42, 0.0)]).collect();
        for i in 0..texts.len() {
            assert!(!texts[..i].contains(&texts[i]), "two seeds drew one text: {texts:?}");
        }
        for _ in 0..3 {
            let again: Vec<String> = (0..4).map(|seed| ask(seed, 1.0)).chain([ask(42, 0.0)]).collect();
            assert_eq!(again, texts, "{sets:?}");
        }
        assert_eq!(*known.get_or_insert_with(|| texts.clone()), texts, "{sets:?}");
    }
}

/// Goal: -1 is no seed, as there and in vLLM, and what is logged is what was drawn with. Method: two answers differ, and each comes
/// again with the seed of its row.
#[test]
fn a_seed_of_minus_one_is_another_one_each_time() {
    let daemon = TestDaemon::builder().set("policy.deterministic=true").start();
    let ask = |seed: Value, user: &str| {
        let body = json!({"prompt": PROMPT, "seed": seed, "max_tokens": 24, "ignore_eos": true, "user": user});
        text(&daemon.post("/v1/completions", &body).ok()).to_owned()
    };
    let drawn = [ask(json!(-1), "first"), ask(json!(-1), "second")];
    assert_ne!(drawn[0], drawn[1]);
    let seed_of = |user: &str| {
        let rows = daemon.get("/v1/rollouts?limit=100").ok()["data"].as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["user"] == user).map(|row| row["sampling"]["seed"].clone())
    };
    for (user, text) in ["first", "second"].into_iter().zip(drawn) {
        daemon.wait_for("the log commits", |_| seed_of(user).is_some());
        let seed = seed_of(user).expect("a row");
        assert!(seed.is_u64() && seed != json!(u64::MAX), "{seed}");
        assert_eq!(ask(seed, "again"), text);
    }
}

/// Goal: ids and texts are the same prompt, alone and in a list, also mixed. Method: greedy, so that equal prompts give
/// equal texts.
#[test]
fn ids_and_texts_are_one_prompt() {
    let daemon = TestDaemon::start();
    let ids = ids(&daemon, PROMPT);
    let single = complete(&daemon, json!({"temperature": 0}));
    for prompt in [json!([ids, ids]), json!([ids, PROMPT]), json!([PROMPT, ids])] {
        let answer = complete(&daemon, json!({"prompt": prompt, "temperature": 0}));
        let texts: Vec<&Value> =
            answer["choices"].as_array().expect("two").iter().map(|choice| &choice["text"]).collect();
        assert_eq!(texts, [&single["choices"][0]["text"]; 2], "{prompt}");
    }
    assert_eq!(text(&complete(&daemon, json!({"prompt": ids, "temperature": 0}))), text(&single));
}

/// Goal: any number of requests on any number of slots is answered, each with its own text; all slots are used where there are
/// requests enough, and none twice. Method: as many clients at once; seeds tell whose text is whose, in passes of their own, for
/// passes that are shared round otherwise; the running gauge is read while they wait. The first client may be served before the last one has come, so that a busy machine gets several tries.
#[test]
fn more_requests_than_slots_wait_their_turn() {
    const TRIES: usize = 20;
    for (n_slots, n_requests) in [(1, 3), (2, 2), (2, 4), (4, 2), (4, 6)] {
        let builder = TestDaemon::builder().set("policy.deterministic=true");
        let daemon = builder.set(format!("policy.parallel={n_slots}")).start();
        let ask = |seed: usize| {
            let body =
                json!({"prompt": format!("{PROMPT} {seed}"), "seed": seed, "max_tokens": 200, "ignore_eos": true});
            text(&daemon.post("/v1/completions", &body).ok()).to_owned()
        };
        let alone: Vec<String> = (0..n_requests).map(ask).collect();
        let at_once = || {
            std::thread::scope(|scope| {
                let clients: Vec<_> = (0..n_requests).map(|seed| scope.spawn(move || ask(seed))).collect();
                let mut most = 0.0_f64;
                while !clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                    most = most.max(daemon.metric("honed_num_requests_running"));
                }
                let texts: Vec<String> = clients.into_iter().map(|client| client.join().expect("answered")).collect();
                assert_eq!(texts, alone, "{n_slots} slots, {n_requests} requests");
                most
            })
        };
        let all = n_slots.min(n_requests) as f64;
        let mut most = 0.0;
        for _ in 0..TRIES {
            most = at_once();
            assert!(most <= all, "{most} of {n_requests} ran on {n_slots} slots");
            if most == all {
                break;
            }
        }
        assert_eq!(most, all, "{n_requests} requests left some of {n_slots} slots idle");
    }
}

/// Goal: every token is told with its alternatives, best first, whole and streamed, in both shapes. Method: ten alternatives
/// of five greedy tokens, none of which is a control token: those have no part in the text.
#[test]
fn alternatives_of_every_token_are_told_on_both_routes() {
    let daemon = TestDaemon::start();
    let bias = json!({"0": -100, "1": -100, "2": -100, "3": -100, "4": -100});
    let asked = json!({"temperature": 0, "max_tokens": 5, "ignore_eos": true, "logit_bias": bias});
    let legacy = complete(&daemon, with(asked.clone(), json!({"logprobs": 10})));
    let arrays = &legacy["choices"][0]["logprobs"];
    for i in 0..5 {
        let top = arrays["top_logprobs"][i].as_object().expect("an object");
        assert!(top.len() == 10 && top.values().all(|lp| lp.as_f64().is_some_and(|lp| lp <= 0.0)), "{top:?}");
        assert!(arrays["tokens"][i].is_string() && arrays["token_logprobs"][i].as_f64().is_some_and(|lp| lp <= 0.0));
    }
    let body =
        with(json!({"messages": [{"role": "user", "content": PROMPT}], "logprobs": true, "top_logprobs": 10}), asked);
    let chat = daemon.post("/v1/chat/completions", &body).ok();
    let tokens = chat["choices"][0]["logprobs"]["content"].as_array().expect("tokens").clone();
    check_chat_tokens(&tokens, 5);
    let aggregated: Vec<u8> = tokens.iter().flat_map(bytes).collect();
    assert_eq!(
        String::from_utf8_lossy(&aggregated),
        chat["choices"][0]["message"]["content"].as_str().expect("a text")
    );
    let events = daemon.stream("/v1/chat/completions", &with(body, json!({"stream": true}))).events();
    let streamed = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array()).flatten();
    let streamed: Vec<Value> = streamed.cloned().collect();
    check_chat_tokens(&streamed, 5);
    assert_eq!(streamed.len(), tokens.len());
    for (streamed, whole) in streamed.iter().zip(&tokens) {
        assert_eq!(streamed["token"], whole["token"], "a stream tells what the whole answer tells");
        // The prompt of the second request came from the cache, in a pass of another shape: the last bits may differ.
        let difference = [streamed, whole].map(|token| token["logprob"].as_f64().expect("a number"));
        assert!((difference[0] - difference[1]).abs() < 1e-4, "{difference:?}");
    }
}

fn check_chat_tokens(tokens: &[Value], n: usize) {
    assert_eq!(tokens.len(), n);
    for token in tokens {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert_eq!(top.len(), 10);
        for entry in top.iter().chain([token]) {
            assert!(entry["token"].is_string() && entry["bytes"].is_array(), "{entry}");
            assert!(entry["logprob"].as_f64().is_some_and(|lp| lp <= 0.0), "{entry}");
        }
        let log_probs: Vec<f64> = top.iter().filter_map(|entry| entry["logprob"].as_f64()).collect();
        assert!(log_probs.windows(2).all(|pair| pair[0] >= pair[1]), "best first: {log_probs:?}");
    }
}

fn bytes(token: &Value) -> Vec<u8> {
    token["bytes"].as_array().expect("bytes").iter().filter_map(|b| b.as_u64()).map(|b| b as u8).collect()
}

/// Goal: a token that is biased away is not drawn, on either route. Method: what a model draws greedily, forbidden.
#[test]
fn tokens_that_are_biased_away_are_not_drawn() {
    let daemon = TestDaemon::start();
    let routes = [
        ("/v1/completions", json!({"prompt": PROMPT})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": PROMPT}]})),
    ];
    for (path, body) in routes {
        let drawn = |bias: Value| {
            let asked = json!({"max_tokens": 64, "temperature": 0, "return_token_ids": true, "ignore_eos": true, "logit_bias": bias});
            let answer = daemon.post(path, &with(body.clone(), asked)).ok();
            answer["choices"][0]["token_ids"].as_array().expect("ids").iter().map(Value::to_string).collect::<Vec<_>>()
        };
        let free = drawn(json!({}));
        let bias: Value = free.iter().map(|id| (id.clone(), json!(-100))).collect::<serde_json::Map<_, _>>().into();
        let bound = drawn(bias);
        assert_eq!(bound.len(), 64);
        assert!(bound.iter().all(|id| !free.contains(id)), "{path}: {free:?} {bound:?}");
    }
}

/// Goal: prompts that come and go are counted whole, however much of them is known. Method: five texts of different length
/// in turn on two slots, with seeds that repeat.
#[test]
fn prompts_in_and_out_of_the_cache_are_counted_whole() {
    let daemon = TestDaemon::builder().set("policy.parallel=2").start();
    let mut n_cached = 0;
    for i in 0..16_usize {
        let r = (i * 7) % 5;
        let prompt = format!(" hello {r}").repeat(10 + r);
        let answer = complete(&daemon, json!({"prompt": prompt, "max_tokens": 1 + i % 8, "ignore_eos": true}));
        let usage = &answer["usage"];
        assert_eq!(usage["prompt_tokens"], n_tokens(&daemon, json!({"prompt": prompt})), "{i}");
        assert_eq!(usage["completion_tokens"], 1 + i % 8);
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        assert!(Some(cached) < usage["prompt_tokens"].as_u64(), "the last token is always computed: {usage}");
        n_cached += cached;
    }
    assert!(n_cached > 16 * 10, "five texts came three times each: {n_cached}");
}

/// Goal: where the time went is told at the end of every answer, as llama-server tells it, and what is known again after its slot
/// has had another prompt is not computed again. Method: one slot; a long prompt, another one, the long one again; both routes,
/// whole and streamed, with and without usage.
#[test]
fn times_are_told_at_the_end_and_a_prompt_that_comes_back_is_known() {
    let daemon = TestDaemon::builder().set("policy.parallel=1").set("policy.prefix_cache_tokens=4096").start();
    let long = PROMPT.repeat(5);
    let ask = |prompt: &str| complete(&daemon, json!({"prompt": prompt, "max_tokens": 5, "ignore_eos": true}));
    let counts = |answer: &Value| ["cache_n", "prompt_n", "predicted_n"].map(|name| answer["timings"][name].as_u64());
    let (first, _, again) = (ask(&long), ask("a bear goes to the beach"), ask(&long));
    let n_prompt = first["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(counts(&first), [Some(0), Some(n_prompt), Some(5)]);
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert!(cached > n_prompt / 2, "{again}");
    assert_eq!(counts(&again), [Some(cached), Some(n_prompt - cached), Some(5)]);

    let routes = [
        ("/v1/completions", json!({"prompt": ["a", "b"], "n": 2})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": PROMPT}]})),
    ];
    for (path, body) in routes {
        let body = with(body, json!({"max_tokens": 4, "ignore_eos": true}));
        let whole = daemon.post(path, &body).ok();
        check_times(&whole);
        for options in [Value::Null, json!({"include_usage": true})] {
            let streamed = with(body.clone(), json!({"stream": true, "stream_options": options}));
            let events = daemon.stream(path, &streamed).events();
            let (last, before) = events.split_last().expect("events");
            check_times(last);
            assert_eq!(last["timings"]["predicted_n"], whole["timings"]["predicted_n"], "{path}");
            assert!(before.iter().all(|event| event.get("timings").is_none()), "{path}: only the last one tells");
        }
    }
    let echoed = complete(&daemon, json!({"max_tokens": 0, "echo": true}));
    assert!(echoed.get("timings").is_none(), "the engine was not asked: {echoed}");
}

fn check_times(answer: &Value) {
    let number = |name: &str| answer["timings"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {answer}"));
    for kind in ["prompt", "predicted"] {
        let [n, ms, per_token, per_second] =
            ["n", "ms", "per_token_ms", "per_second"].map(|name| number(&format!("{kind}_{name}")));
        assert!(n > 0.0 && ms > 0.0, "{answer}");
        assert!((per_token * n - ms).abs() < 1e-6 * ms && (per_second * ms - n * 1e3).abs() < 1e-3 * n, "{answer}");
    }
}

/// Goal: parts of a message are its text. Method: the tokens of both spellings.
#[test]
fn parts_of_a_message_are_one_text() {
    let daemon = TestDaemon::start();
    let tokens =
        |content: Value| daemon.post("/tokenize", &json!({"messages": [{"role": "user", "content": content}]})).ok();
    let parts = json!([{"type": "text", "text": "what is "}, {"type": "text", "text": "the sky"}]);
    assert_eq!(tokens(parts), tokens(json!("what is the sky")));
}

#[test]
fn chunks_of_a_chat_say_the_role_once_and_end_without_text() {
    let daemon = TestDaemon::builder().set("policy.served_name=llama-test").start();
    let body = json!({"model": "llama-test", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "stream": true});
    let events = daemon.stream("/v1/chat/completions", &body).events();
    assert!(events.iter().all(|event| event["model"] == "llama-test" && event["object"] == "chat.completion.chunk"));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let last = &events.last().expect("events")["choices"][0];
    assert!(last["finish_reason"].is_string(), "{last}");
    let finished = events.iter().filter(|event| !event["choices"][0]["finish_reason"].is_null()).count();
    assert_eq!(finished, 1);
}

/// Goal: an answer's form may be given as llama-server's clients give it, and a schema that is none is refused. Method:
/// constants, so that a random model can say only one thing.
#[test]
fn forms_of_an_answer_are_read_as_llama_servers_clients_write_them() {
    let daemon = TestDaemon::start();
    let ask = |fields: Value| {
        let body = json!({"messages": [{"role": "user", "content": "an example"}], "max_tokens": 40});
        daemon.post("/v1/chat/completions", &with(body, fields))
    };
    let said = |reply: Reply| reply.ok()["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
    let format = |format: Value| ask(json!({"response_format": format}));
    assert_eq!(said(format(json!({"type": "json_object", "schema": {"const": "42"}}))), "\"42\"");
    assert_eq!(said(format(json!({"type": "json_schema", "json_schema": {"schema": {"const": "fooo"}}}))), "\"fooo\"");
    assert_eq!(said(ask(json!({"json_schema": {"const": "42"}}))), "\"42\"");
    assert!(said(format(json!({"type": "json_object"}))).trim_start().starts_with('{'));
    assert_eq!(said(ask(json!({"grammar": "start: \"a\"{5}"}))), "aaaaa");
    for (param, wrong) in [
        ("response_format.type", json!({"type": "sound"})),
        ("response_format.schema", json!({"type": "json_object", "schema": 123})),
        ("response_format.schema", json!({"type": "json_object", "schema": {"type": 123}})),
        ("response_format.schema", json!({"type": "json_object", "schema": {"type": "hiccup"}})),
    ] {
        assert_eq!(format(wrong.clone()).error(400)["param"], param, "{wrong}");
    }
    let theirs = ask(json!({"grammar": "root ::= \"a\"{5,5}"})).error(400);
    assert_eq!(theirs["param"], "grammar", "their own notation is refused, not misread");
}

/// Goal: what does not fit is refused before a stream begins. Method: the same long conversation, whole and streamed.
#[test]
fn a_conversation_that_does_not_fit_is_refused_before_it_streams() {
    let daemon = TestDaemon::start();
    let messages = vec![json!({"role": "user", "content": PROMPT}); 100];
    for stream in [false, true] {
        let reply = daemon.post("/v1/chat/completions", &json!({"messages": messages, "stream": stream}));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let error = reply.error(400);
        assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("messages")));
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains(&WINDOW.to_string()), "it says how much would fit: {message}");
    }
}

/// Goal: an answer without a limit ends with the window, and says so. Method: a chat that never ends by itself.
#[test]
fn an_answer_without_a_limit_ends_with_the_window() {
    let daemon = TestDaemon::start();
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "ignore_eos": true});
    for stream in [false, true] {
        let body = with(
            body.clone(),
            json!({"stream": stream, "stream_options": if stream { json!({"include_usage": true}) } else { Value::Null }}),
        );
        let (usage, finish) = match stream {
            false => {
                let answer = daemon.post("/v1/chat/completions", &body).ok();
                (answer["usage"].clone(), answer["choices"][0]["finish_reason"].clone())
            }
            true => {
                let events = daemon.stream("/v1/chat/completions", &body).events();
                let finish = events.iter().map(|e| &e["choices"][0]["finish_reason"]).find(|finish| !finish.is_null());
                (events.last().expect("events")["usage"].clone(), finish.expect("it ends").clone())
            }
        };
        assert_eq!((&usage["total_tokens"], &finish), (&json!(WINDOW), &json!("length")), "{usage}");
    }
}

/// Goal: `ignore_eos` keeps the end token from being drawn, whatever its logit. Method: a bias that makes it certain.
#[test]
fn an_end_that_is_ignored_never_comes() {
    let daemon = TestDaemon::start();
    let end = daemon.get("/tokenizer_info").ok()["eos_token_id"].to_string();
    let ask = |ignore: bool| {
        let bias: Value = [(end.clone(), json!(100))].into_iter().collect::<serde_json::Map<_, _>>().into();
        complete(&daemon, json!({"max_tokens": 8, "temperature": 0, "ignore_eos": ignore, "logit_bias": bias}))
    };
    let (ends, goes_on) = (ask(false), ask(true));
    assert_eq!((&ends["choices"][0]["finish_reason"], text(&ends)), (&json!("stop"), ""));
    assert_eq!(
        (&goes_on["choices"][0]["finish_reason"], &goes_on["usage"]["completion_tokens"]),
        (&json!("length"), &json!(8))
    );
}

/// A model that wants a beginning token: the test's, with the mark set in its file.
fn begun(folder: &std::path::Path) -> TestDaemon {
    use candle_core::quantized::gguf_file::Value as Gguf;
    let path = folder.join("begins.gguf");
    let mut checkpoint = policy::checkpoint::Checkpoint::read(&crate::harness::model::file()).expect("the model");
    checkpoint.metadata.set("tokenizer.ggml.add_bos_token", Gguf::Bool(true));
    checkpoint.metadata.set("tokenizer.ggml.bos_token_id", Gguf::U32(2));
    checkpoint.write(&path).expect("written");
    TestDaemon::builder().set(format!("policy.model={}", path.display())).start()
}

/// Goal: a model that wants a beginning token gets one, once, as each peer's clients expect. Method: llama-server's names and
/// default, vLLM's, and generation, which always has one.
#[test]
fn a_beginning_token_is_added_where_the_model_wants_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = begun(folder.path());
    let tokens = |body: Value| daemon.post("/tokenize", &body).ok()["tokens"].as_array().expect("ids").clone();
    let begun = tokens(json!({"content": PROMPT, "add_special": true}));
    assert_eq!(begun[0], 2);
    assert_eq!(tokens(json!({"content": PROMPT})), begun[1..]);
    assert_eq!(tokens(json!({"content": PROMPT, "add_special": false})), begun[1..]);
    assert_eq!(tokens(json!({"prompt": PROMPT})), begun);
    assert_eq!(tokens(json!({"prompt": PROMPT, "add_special_tokens": false})), begun[1..]);
    let answer = complete(&daemon, json!({"max_tokens": 1, "return_token_ids": true}));
    assert_eq!(answer["choices"][0]["prompt_token_ids"], json!(begun));
    assert_eq!(daemon.get("/tokenizer_info").ok()["bos_token_id"], 2);
}

/// Their `tokenize_detokenize`: what comes back is the text, also of a model that wants a beginning token.
#[test]
fn a_text_comes_back_from_its_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = begun(folder.path());
    let content = "What is the capital of France ?";
    let tokens = daemon.post("/tokenize", &json!({"content": content})).ok()["tokens"].clone();
    assert!(tokens.as_array().is_some_and(|tokens| tokens.len() > 5), "{tokens}");
    assert_eq!(daemon.post("/detokenize", &json!({"tokens": tokens})).ok()["content"], content);
}

#[test]
fn pieces_of_a_text_are_told_beside_their_ids() {
    let daemon = TestDaemon::start();
    let body = json!({"content": "a test with \u{5abd} and \u{1f917}", "return_token_strs": true});
    let answer = daemon.post("/tokenize", &body).ok();
    let (ids, pieces) = (answer["tokens"].as_array().expect("ids"), answer["token_strs"].as_array().expect("texts"));
    assert_eq!(ids.len(), pieces.len());
    assert!(pieces.iter().all(|piece| piece.as_str().is_some_and(|piece| !piece.is_empty())), "{answer}");
}

/// Goal: a token and its piece are told together, as a text where it is one and as bytes where it is not. Method: letters and
/// characters of several bytes; all bytes together are the text.
#[test]
fn pieces_come_within_the_list_of_ids_when_asked_for() {
    let daemon = TestDaemon::start();
    let text = "a test with \u{5abd} and \u{1f917}";
    let ask = |pieces: bool| daemon.post("/tokenize", &json!({"content": text, "with_pieces": pieces})).ok();
    let answer = ask(true);
    let tokens = answer["tokens"].as_array().expect("tokens");
    let ids: Vec<&Value> = tokens.iter().map(|token| &token["id"]).collect();
    assert_eq!(json!(ids), ask(false)["tokens"]);
    let bytes = |token: &Value| match &token["piece"] {
        Value::String(piece) => piece.clone().into_bytes(),
        piece => serde_json::from_value::<Vec<u8>>(piece.clone()).expect("bytes"),
    };
    assert_eq!(String::from_utf8(tokens.iter().flat_map(bytes).collect()).as_deref(), Ok(text));
    let is_of = |kind: fn(&Value) -> bool| tokens.iter().any(|token| kind(&token["piece"]));
    assert!(is_of(Value::is_string) && is_of(Value::is_array), "{answer}");
}

/// Goal: a re-ranker counts what it read and tells as many as asked for. Method: their cases, on both shapes.
#[test]
fn rerankers_count_what_they_read_and_tell_as_many_as_asked_for() {
    let daemon = TestDaemon::builder().set("policy.model=").start();
    let documents = ["a bear", "the ocean is vast", "what color is the sky", "deep"];
    for (top_n, n) in [(Value::Null, 4), (json!(2), 2), (json!(4), 4), (json!(99), 4)] {
        for (name, list) in [("documents", "results"), ("texts", "")] {
            let body = with(json!({"query": "the beach", "top_n": top_n}), json!({name: documents}));
            let answer = daemon.post("/rerank", &body).ok();
            let told = if list.is_empty() { &answer } else { &answer[list] };
            assert_eq!(told.as_array().map(Vec::len), Some(n), "{body}");
        }
    }
    let answer = daemon.post("/rerank", &json!({"query": "q", "documents": ["a", "the ocean"]})).ok();
    let pairs = ["a", "the ocean"].map(|document| {
        let scored = daemon.post("/score", &json!({"text_1": "q", "text_2": document})).ok();
        scored["usage"]["prompt_tokens"].as_u64().expect("a count")
    });
    assert_eq!(answer["usage"]["prompt_tokens"], pairs.iter().sum::<u64>());
    assert_eq!(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]);
    for documents in [json!([]), Value::Null, json!(123), json!([1, 2, 3])] {
        let error = daemon.post("/rerank", &json!({"query": "q", "documents": documents})).error(400);
        assert_eq!(error["param"], "documents");
    }
}

/// Goal: with keys, pages and probes stay open and everything else does not. Method: every family of routes without a key.
#[test]
fn pages_and_probes_need_no_key_and_everything_else_does() {
    let daemon = TestDaemon::builder().keys("daemon.api_keys_file", "secret\n").start();
    for path in ["/", "/docs", "/openapi.json", "/livez", "/readyz", "/health", "/v1/health", "/version", "/metrics"] {
        assert_eq!(daemon.get(path).status, 200, "{path}");
    }
    let document = daemon.get("/openapi.json").ok();
    let mut n_closed = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let filled = path.replace("{id}", "policy").replace("{version}", "0");
            let reply = daemon.send(&method.to_uppercase(), &filled, &[("content-type", "application/json")], b"{}");
            if operation.get("security").is_some() {
                assert_eq!(reply.error(401)["type"], "authentication_error", "{method} {path}");
                n_closed += 1;
            } else {
                assert_ne!(reply.status, 401, "{method} {path}");
            }
        }
    }
    assert!(n_closed > 20, "{n_closed}");
    let key = [("authorization", "Bearer secret"), ("content-type", "application/json")];
    daemon.send("POST", "/v1/completions", &key, br#"{"prompt":"a","max_tokens":1}"#).ok();
}
