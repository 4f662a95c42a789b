//! 12 to 29: fields of a completion that are wrong by type, by range, or beside each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bench::{Bench, COMPLETIONS, Case, WHOLE};
use crate::harness::{client::Stream, model::WINDOW};

pub(super) const CASES: &[Case] = &[
    (12, "no prompt, an empty one, mixed ones", |b| {
        b.refuses(COMPLETIONS, "prompt", "{}");
        let wrong =
            ["[]", "\"\"", "[[]]", "[\"\"]", "null", "[\"a\",1]", "[1,\"a\"]", "[[1],2]", "[[\"a\"]]", "{}", "5"];
        wrong.iter().for_each(|prompt| b.refuses(COMPLETIONS, "prompt", format!(r#"{{"prompt":{prompt}}}"#)));
    }),
    (13, "token ids that are none", |b| {
        let size = vocabulary_size(b).to_string();
        for id in ["-1", &size, "2147483648", "4294967296", "1.5", "1e300"] {
            b.refuses(COMPLETIONS, "prompt", format!(r#"{{"prompt":[{id}]}}"#));
            b.refuses(COMPLETIONS, "prompt", format!(r#"{{"prompt":[[0,{id}]]}}"#));
            b.refuses("/detokenize", "tokens", format!(r#"{{"tokens":[{id}]}}"#));
        }
        b.refuses(COMPLETIONS, "prompt", r#"{"prompt":[["1"]]}"#);
        let text = b.accepts(COMPLETIONS, r#"{"prompt":["1"],"max_tokens":1,"return_token_ids":true}"#);
        let ids = b.accepts("/tokenize", r#"{"prompt":"1"}"#);
        assert_eq!(text["choices"][0]["prompt_token_ids"], ids["tokens"], "a string in a list is a text");
    }),
    (14, "a prompt as long as the window", |b| {
        let prompt = |n: usize| json!({"prompt": vec![7; n], "max_tokens": 1}).to_string();
        assert_eq!(b.accepts(COMPLETIONS, prompt(WINDOW - 1))["usage"]["completion_tokens"], 1);
        for n in [WINDOW, WINDOW + 1, 100_000] {
            let error = b.post(COMPLETIONS, prompt(n)).error(400);
            assert_eq!(error["code"], "context_length_exceeded", "{n}");
        }
    }),
    (14, "half a megabyte of one character: refused or cut, in time that is no attack", |b| {
        for unit in ["a", " ", "\u{1f30a}", "\\n", "\\u0000", "<|endoftext|>"] {
            let text = unit.repeat(500_000 / unit.len());
            let asked = Instant::now();
            let error = b.post(COMPLETIONS, format!(r#"{{"prompt":"{text}"}}"#)).error(400);
            assert_eq!(error["code"], "context_length_exceeded", "{unit:?}");
            b.accepts("/tokenize", format!(r#"{{"prompt":"{text}"}}"#));
            assert!(asked.elapsed() < Duration::from_secs(20), "{unit:?} took {:?}", asked.elapsed());
        }
        b.post(COMPLETIONS, format!(r#"{{"prompt":"{}"}}"#, "a".repeat(10_000_000))).error(413);
    }),
    (15, "max_tokens", |b| {
        for wrong in ["0", "-1", "2147483648", "9223372036854775808", "1.5", "\"5\"", "true", "[5]"] {
            b.refuses(COMPLETIONS, "max_tokens", format!(r#"{{"prompt":"a","max_tokens":{wrong}}}"#));
        }
        b.refuses(COMPLETIONS, WHOLE, r#"{"prompt":"a","max_tokens":1e309}"#);
        b.refuses(COMPLETIONS, WHOLE, r#"{"prompt":"a","max_tokens":05}"#);
    }),
    (16, "n", |b| {
        ["0", "-1", "129", "1000000000", "1.5"].iter().for_each(|n| b.refuses_fields("n", &format!(r#""n":{n}"#)));
        // Within its own range, but too much beside the prompts.
        let prompts = vec!["a"; 1024];
        b.refuses(COMPLETIONS, "n", json!({"prompt": prompts, "n": 128, "max_tokens": 1}).to_string());
        b.refuses(COMPLETIONS, "prompt", json!({"prompt": vec!["a"; 1025], "max_tokens": 1}).to_string());
    }),
    (17, "best_of below n, beside a stream, too large", |b| {
        for fields in [r#""n":2,"best_of":1"#, r#""best_of":3,"stream":true"#, r#""best_of":129"#, r#""best_of":-1"#] {
            b.refuses_fields("best_of", fields);
        }
    }),
    (18, "logprobs", |b| {
        let size = vocabulary_size(b) + 1;
        for wrong in ["-1", "21", &size.to_string(), "true", "1.5", "\"1\""] {
            b.refuses_fields("logprobs", &format!(r#""logprobs":{wrong}"#));
            b.refuses_fields("logprobs", &format!(r#""echo":true,"logprobs":{wrong}"#));
        }
        // OpenAI stops at 5, vLLM and this daemon at 20.
        let answer = b.accepts_fields(r#""logprobs":6,"temperature":0"#);
        let top = answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().map(serde_json::Map::len);
        assert_eq!(top, Some(6), "{answer}");
    }),
    (19, "echo of several streamed choices; echo alone", |b| {
        let body = json!({"prompt": ["a", "the"], "max_tokens": 2, "n": 2, "echo": true, "stream": true});
        let events = Stream::open(b.process.address, COMPLETIONS, &body).events();
        let text = |index: u64| {
            let of_choice = events.iter().map(|event| &event["choices"][0]).filter(|c| c["index"] == index);
            of_choice.filter_map(|choice| choice["text"].as_str()).collect::<String>()
        };
        assert!(text(0).starts_with('a') && text(1).starts_with('a'), "{events:?}");
        assert!(text(2).starts_with("the") && text(3).starts_with("the"), "{events:?}");
        let alone = b.accepts(COMPLETIONS, r#"{"prompt":"a","max_tokens":0,"echo":true}"#);
        assert_eq!((&alone["choices"][0]["text"], &alone["usage"]["completion_tokens"]), (&json!("a"), &json!(0)));
    }),
    (20, "temperature", |b| {
        for wrong in ["-1", "2.1", "1e38", "\"hot\"", "true"] {
            b.refuses_fields("temperature", &format!(r#""temperature":{wrong}"#));
        }
        for no_json in ["NaN", "Infinity", "-Infinity", "1e999"] {
            b.refuses_fields(WHOLE, &format!(r#""temperature":{no_json}"#));
        }
        b.accepts_fields(r#""temperature":1e-38"#);
    }),
    (21, "top_p, top_k, min_p", |b| {
        for wrong in ["1.1", "-1", "\"1\""] {
            b.refuses_fields("top_p", &format!(r#""top_p":{wrong}"#));
            b.refuses_fields("min_p", &format!(r#""min_p":{wrong}"#));
        }
        ["-5", "1.5", "2147483648"].iter().for_each(|k| b.refuses_fields("top_k", &format!(r#""top_k":{k}"#)));
        // OpenAI allows a top_p of 0; it leaves the most probable token.
        let greedy = b.accepts_fields(r#""top_p":0,"ignore_eos":true"#);
        let certain = b.accepts_fields(r#""temperature":0,"ignore_eos":true"#);
        assert_eq!(greedy["choices"][0]["text"], certain["choices"][0]["text"]);
        b.accepts_fields(r#""top_k":2147483647,"min_p":1"#);
    }),
    (22, "stop", |b| {
        for wrong in [r#"["1","2","3","4","5"]"#, r#"[""]"#, r#""""#, "1", r#"[1]"#, r#"[["a"]]"#, "{}"] {
            b.refuses_fields("stop", &format!(r#""stop":{wrong}"#));
        }
        b.refuses_fields("stop", &format!(r#""stop":"{}""#, "a".repeat(1_000_000)));
        b.refuses_fields("stop", &format!(r#""stop":{}"#, json!(vec!["a"; 10_000])));
        b.refuses_fields("stop_token_ids", &format!(r#""stop_token_ids":{}"#, json!(vec![1; 129])));
    }),
    (23, "seed", |b| {
        for wrong in ["18446744073709551616", "-9223372036854775809", "1.5", "\"1\""] {
            b.refuses_fields("seed", &format!(r#""seed":{wrong}"#));
        }
        // Any 64 bits, signed or not.
        ["-1", "9223372036854775808"].iter().for_each(|seed| drop(b.accepts_fields(&format!(r#""seed":{seed}"#))));
    }),
    (24, "logit_bias", |b| {
        let size = vocabulary_size(b);
        let unknown = format!(r#"{{"{size}":1}}"#);
        let wrong = [
            unknown.as_str(),
            r#"{"-1":1}"#,
            r#"{"2147483648":1}"#,
            r#"{"x":1}"#,
            r#"{"1":1e9}"#,
            r#"{"1":-1e9}"#,
            r#"{"1":"1"}"#,
            r#"{"1":null}"#,
            "[[1,1]]",
            "5",
        ];
        wrong.iter().for_each(|bias| b.refuses_fields("logit_bias", &format!(r#""logit_bias":{bias}"#)));
        b.refuses_fields("logit_bias", &format!(r#""logit_bias":{}"#, biases(100_000, 1)));
        b.post(COMPLETIONS, format!(r#"{{"prompt":"a","logit_bias":{}}}"#, biases(1_000_000, 1))).error(413);
    }),
    (24, "a logit_bias that forbids every token alike forbids none", |b| {
        let bias = biases(vocabulary_size(b), -100);
        let biased = b.accepts_fields(&format!(r#""seed":4,"ignore_eos":true,"logit_bias":{bias}"#));
        let plain = b.accepts_fields(r#""seed":4,"ignore_eos":true"#);
        assert_eq!(biased["choices"][0]["text"], plain["choices"][0]["text"]);
    }),
    (25, "penalties", |b| {
        for name in ["frequency_penalty", "presence_penalty"] {
            ["-2.1", "2.1", "\"1\""].iter().for_each(|x| b.refuses_fields(name, &format!(r#""{name}":{x}"#)));
        }
        ["0", "-1", "10.1"]
            .iter()
            .for_each(|x| b.refuses_fields("repetition_penalty", &format!(r#""repetition_penalty":{x}"#)));
    }),
    (26, "a model that is none", |b| {
        for model in [
            "gpt-4",
            "../../etc/passwd",
            "policy@99999999999999999999",
            "policy@-0",
            "policy@0x0",
            "policy@ 0",
            "/",
            "\u{1f30a}",
        ] {
            let reply = b.post(COMPLETIONS, json!({"model": model, "prompt": "a"}).to_string());
            let error = reply.error(404);
            assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")), "{model}");
        }
        b.refuses_fields("model", &format!(r#""model":"{}""#, "m".repeat(1_000_000)));
        b.refuses_fields("model", r#""model":["policy"]"#);
        b.get(&format!("/v1/models/{}", "m".repeat(8000))).error(404);
        b.get("/v1/models/..%2f..%2fetc%2fpasswd").error(404);
    }),
    (27, "fields that nobody knows are ignored, as HTTP's users are told", |b| {
        b.accepts_fields(r#""metadata":{"a":[1]},"service_tier":"auto","no_such_field":1e300,"":0,"__proto__":{}"#);
        // Fields that are known and not built would change the answer, so they are refused.
        for (param, field) in [("suffix", r#""suffix":"b""#), ("lora", r#""lora":[{"id":0,"scale":1}]"#)] {
            b.refuses_fields(param, field);
        }
    }),
    (28, "stream and its options", |b| {
        ["\"yes\"", "1", "[]"].iter().for_each(|x| b.refuses_fields("stream", &format!(r#""stream":{x}"#)));
        for stream in ["", r#","stream":false"#, r#","stream":null"#] {
            b.refuses_fields("stream_options", &format!(r#""stream_options":{{"include_usage":true}}{stream}"#));
        }
        b.refuses_fields("stream_options", r#""stream":true,"stream_options":true"#);
        for name in ["include_usage", "continuous_usage_stats"] {
            let fields = format!(r#""stream":true,"stream_options":{{"{name}":1}}"#);
            b.refuses_fields(format!("stream_options.{name}").as_str(), &fields);
        }
    }),
    (29, "forms of an answer that cannot be had", |b| {
        let deep_text = "(".repeat(60_000);
        let deep_json = r#"{"items":"#.repeat(100);
        let cases = [
            ("response_format.json_schema", r#""response_format":{"type":"json_schema"}"#.to_owned()),
            (
                "response_format.json_schema.schema",
                r#""response_format":{"type":"json_schema","json_schema":{}}"#.to_owned(),
            ),
            ("response_format.type", r#""response_format":{"type":"xml"}"#.to_owned()),
            ("response_format", r#""response_format":"json""#.to_owned()),
            ("guided_regex", format!(r#""guided_regex":"{deep_text}""#)),
            ("guided_regex", format!(r#""guided_regex":"{deep_text}{}""#, ")".repeat(60_000))),
            ("guided_regex", r#""guided_regex":"(a""#.to_owned()),
            ("grammar", format!(r#""grammar":"start: {deep_text}""#)),
            ("guided_json", format!(r#""guided_json":{deep_json}{{}}{}"#, "}".repeat(100))),
            ("guided_json", r#""guided_json":{"type":"hiccup"}"#.to_owned()),
            ("guided_json", r#""guided_json":{"$ref":"file:///etc/passwd"}"#.to_owned()),
        ];
        for (param, fields) in cases {
            let asked = Instant::now();
            b.refuses_fields(param, &fields);
            assert!(asked.elapsed() < Duration::from_secs(20), "{param} took {:?}", asked.elapsed());
        }
    }),
    (29, "a regular expression that backtracks for ever elsewhere", |b| {
        for regex in ["(a+)+b", "(a|a)*b", "(a|aa)+b", "(.*a){12}"] {
            let asked = Instant::now();
            b.accepts_fields(&format!(r#""guided_regex":"{regex}""#));
            assert!(asked.elapsed() < Duration::from_secs(20), "{regex} took {:?}", asked.elapsed());
        }
        // Refused where its compilation runs out of its budget, followed where the processor is fast enough; never for long.
        let asked = Instant::now();
        let huge = json!({"prompt": "a", "max_tokens": 4, "guided_regex": "(a{1000}){1000}".repeat(100)});
        assert!([200, 400].contains(&b.post(COMPLETIONS, huge.to_string()).status));
        assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    }),
];

fn vocabulary_size(b: &Bench) -> u64 {
    b.get("/tokenizer_info").ok()["vocab_size"].as_u64().expect("a number")
}

/// So many tokens, each with the same bias.
fn biases(n: u64, bias: i32) -> Value {
    Value::Object((0..n).map(|id| (id.to_string(), bias.into())).collect())
}
