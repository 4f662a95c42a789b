//! What the engine does on a model file: prefill and decode rates at several batch sizes, as one line each.
//!
//! `cargo run --release -p policy --example engine_speed -- model.gguf [threads] [prompt tokens] [response tokens] [backend] [batch]`

use std::{path::Path, sync::mpsc::channel, time::Instant};

use policy::{
    SamplingParams, TokenId,
    engine::{Engine, Event, GenerateRequest, Target},
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(default, |text| text.parse().expect("a whole number"));
    let path = args.first().expect("a model file");
    let (threads, n_prompt, n_response) = (number(1, 0), number(2, 64), number(3, 200));
    let batches = args.get(5).map_or(vec![1, 2, 4, 8, 16, 32], |n| vec![n.parse().expect("a whole number")]);
    for parallel in batches {
        let mut config = config::Config::default().policy;
        config.threads = threads;
        config.backend = args.get(4).cloned().unwrap_or(config.backend);
        config.parallel = parallel;
        let engine = Engine::start(&config, Path::new(path)).expect("the model loads");
        run(&engine, parallel, n_prompt, n_response);
        let (prefill, decode) = run(&engine, parallel, n_prompt, n_response);
        println!("batch {parallel}: first tokens after {prefill:.4} s, decode {decode:.0} tokens/s");
    }
}

/// Sends `parallel` requests at once; seconds until all have their first token, and tokens per second after that.
fn run(engine: &Engine, parallel: usize, n_prompt: usize, n_response: usize) -> (f64, f64) {
    let (sender, events) = channel();
    let start = Instant::now();
    for i in 0..parallel {
        let sender = sender.clone();
        let prompt = (0..n_prompt).map(|k| token(engine, i * 977 + k * 31));
        let request = GenerateRequest {
            id: format!("speed-{i}"),
            prompt: prompt.collect(),
            sampling: SamplingParams {
                max_tokens: u32::try_from(n_response).expect("a small number"),
                ignore_eos: true,
                seed: Some(i as u64),
                ..SamplingParams::default()
            },
            sink: Box::new(move |event| drop(sender.send((Instant::now(), event)))),
            ..GenerateRequest::default()
        };
        engine.submit(Target::Live, request).expect("the queue has room");
    }
    drop(sender);
    let mut first = None;
    let mut last = start;
    let (mut n_first, mut n_rest) = (0, 0);
    let mut seen = vec![false; parallel];
    for (at, event) in events {
        last = at;
        match event {
            Event::Finished(finished) => {
                let i: usize = finished.rollout.id.request[6..].parse().expect("an id of ours");
                seen[i] = true;
            }
            Event::Prompt { .. } => {}
            Event::Token { .. } if first.is_some() => n_rest += 1,
            Event::Token { .. } => {
                n_first += 1;
                if n_first >= parallel {
                    first = Some(at);
                }
            }
            Event::Failed(failure) => panic!("{failure}"),
        }
    }
    assert!(seen.into_iter().all(|finished| finished));
    let first = first.expect("tokens came");
    let decode = f64::from(n_rest) / (last - first).as_secs_f64();
    ((first - start).as_secs_f64(), decode)
}

fn token(engine: &Engine, i: usize) -> TokenId {
    TokenId(u32::try_from(10 + i % (engine.vocabulary().size() - 20)).expect("a small number"))
}
