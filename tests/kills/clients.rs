//! Clients that ask, judge what they get, and remember what they were promised. A connection that breaks is no fault here.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Clients at once; one more loads a model, and one wants to be forgotten.
const N_CLIENTS: u64 = 3;

/// The user that is forgotten now and then.
pub(super) const LEAVER: &str = "leaver";

/// Feedback that was answered.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) score: f64,
}

/// All clients of one life.
pub(super) struct Clients {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Promise>>>,
}

impl Clients {
    pub(super) fn start(address: SocketAddr, file: &str, seed: u64) -> Clients {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads: Vec<_> = (0..N_CLIENTS)
            .map(|n| {
                let over = Arc::clone(&over);
                std::thread::spawn(move || ask_and_judge(address, &over, seed.wrapping_add(n)))
            })
            .collect();
        let body = json!({"path": file, "promote": seed.is_multiple_of(2)});
        threads.push(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(seed % 500));
            post(address, "/v1/policies", &body);
            Vec::new()
        }));
        let own_over = Arc::clone(&over);
        threads.push(std::thread::spawn(move || {
            come_and_leave(address, &own_over);
            Vec::new()
        }));
        Clients { over, threads }
    }

    /// What was promised to all of them.
    pub(super) fn stop(self) -> Vec<Promise> {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client does not panic")).collect()
    }
}

fn ask_and_judge(address: SocketAddr, over: &AtomicBool, seed: u64) -> Vec<Promise> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut promises = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let user = format!("user-{}", random.random_range(0..9));
        let body = json!({"prompt": "a bear meets", "max_tokens": 6, "ignore_eos": true, "user": user});
        let answer = post(address, "/v1/completions", &body);
        let Some(id) = answer.as_ref().and_then(|answer| answer["id"].as_str()) else {
            // Gone, or busy failing; a moment later we know.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        // People read; and the learner gets its turn.
        std::thread::sleep(Duration::from_millis(10));
        if random.random_bool(0.9) {
            // Exact in decimals, so that it comes back as it went.
            let score = f64::from(random.random_range(-32..32)) / 16.0;
            let words = json!({"id": id, "user": user, "score": score});
            if post(address, "/v1/feedback", &words).is_some() {
                promises.push(Promise { id: id.to_owned(), user, score });
            }
        }
    }
    promises
}

fn come_and_leave(address: SocketAddr, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        post(address, "/v1/completions", &json!({"prompt": "a bear", "max_tokens": 2, "user": LEAVER}));
        std::thread::sleep(Duration::from_millis(150));
        post(address, "/v1/rollouts/forget", &json!({"user": LEAVER}));
    }
}

/// The body of a 200; `None` for everything else.
pub(super) fn post(address: SocketAddr, path: &str, body: &Value) -> Option<Value> {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20))).build();
    let request = ureq::Agent::new_with_config(config).post(format!("http://{address}{path}"));
    let mut response = request.content_type("application/json").send(body.to_string()).ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    serde_json::from_str(&text).ok()
}
