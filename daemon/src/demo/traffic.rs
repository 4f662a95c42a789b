//! Users: a few of them at once, each asking, reading, thinking, and asking again.
//!
//! The loop is closed (nobody asks again before the answer is there) and users think between questions, so the load
//! follows what the machine gives and the learner keeps its share of the cores.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rand::Rng;

use super::{
    client::Client,
    scratch::ANSWER_TOKENS,
    world::{CHAT, Prompt, Split, World, judge},
};
use crate::http::wire::client::Ask;

/// Share of requests that stream.
const STREAMING: f64 = 0.8;
/// Failures that are told in words.
const REASONS_KEPT: usize = 5;

/// How users behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Users at once.
    pub(super) users: usize,
    /// Mean time between an answer and the next question.
    pub(super) think: Duration,
}

/// What users saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Requests that got a whole answer, and those that did not.
    pub(super) answered: u64,
    /// Requests that did not get a whole answer.
    pub(super) failed: u64,
    /// Why, for the first few.
    pub(super) reasons: Vec<String>,
    /// (seconds since the start, milliseconds to the first piece).
    pub(super) first_ms: Vec<(f64, f64)>,
    /// (seconds since the start, milliseconds between two pieces).
    pub(super) gap_ms: Vec<(f64, f64)>,
    /// (seconds since the start, gold of the answer).
    pub(super) gold: Vec<(f64, f64)>,
}

/// Live traffic until it is stopped.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    users: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Sends the users in.
    pub(super) fn start(client: &Client, world: World, seed: u64, habits: Habits, started: Instant) -> Traffic {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let users = (0..habits.users).map(|i| {
            let user =
                User { client: client.clone(), stop: Arc::clone(&stop), seen: Arc::clone(&seen), started, habits };
            let prompts = world.prompts(Split::Train, &format!("traffic/{seed}/{i}"));
            let rng = world.stream(&format!("habits/{seed}/{i}"));
            std::thread::spawn(move || user.live(prompts, rng))
        });
        Traffic { users: users.collect(), stop, seen }
    }

    /// How many requests were answered, and how many failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        let seen = self.seen.lock().expect("users do not panic while they hold it");
        (seen.answered, seen.failed)
    }

    /// Lets everybody finish what they are reading, and goes home.
    pub(super) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        for user in self.users {
            // A user who panicked has been counted by what they did not finish.
            let _ = user.join();
        }
        std::mem::take(&mut *self.seen.lock().expect("all users have left"))
    }
}

struct User {
    client: Client,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    started: Instant,
    habits: Habits,
}

impl User {
    fn live(&self, prompts: impl Iterator<Item = Prompt>, mut rng: impl Rng) {
        for prompt in prompts {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let stream = rng.random_bool(STREAMING);
            let chat = rng.random_bool(CHAT);
            self.ask(&prompt, chat, stream);
            std::thread::sleep(self.habits.think.mul_f64(rng.random_range(0.5..1.5)));
        }
    }

    fn ask(&self, prompt: &Prompt, chat: bool, stream: bool) {
        let ask = Ask {
            model: "policy",
            text: &prompt.instruction,
            chat,
            stream,
            n: 1,
            max_tokens: ANSWER_TOKENS,
            seed: None,
            store: true,
            user: &prompt.user,
        };
        let result = self.client.ask(&ask);
        let now = self.started.elapsed().as_secs_f64();
        let mut seen = self.seen.lock().expect("users do not panic while they hold it");
        match result {
            Ok(reply) => {
                seen.answered += 1;
                let answer = &reply.responses[0];
                seen.gold.push((now, judge(&prompt.wanted, &answer.text, answer.ended).total()));
                if let Some((first, rest)) = reply.gaps_ms.split_first() {
                    seen.first_ms.push((now, *first));
                    seen.gap_ms.extend(rest.iter().map(|gap| (now, *gap)));
                }
            }
            Err(reason) => {
                seen.failed += 1;
                if seen.reasons.len() < REASONS_KEPT {
                    seen.reasons.push(format!("{} {:?}: {reason}", ask.route(), prompt.instruction));
                }
            }
        }
    }
}
