//! Learning while traffic never pauses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use policy::{
    SamplingParams,
    engine::{Engine, Event, GenerateRequest, Target},
};

use super::{super::share, world::*};
use crate::stats::UpdateOutcome;

/// Requests that are always in flight.
const N_IN_FLIGHT: usize = 8;

/// Keeps the engine busy until dropped; nothing of it is logged.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Traffic {
    fn start(engine: Engine) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (in_flight, n_failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            while !stopped.load(Ordering::Relaxed) {
                if in_flight.load(Ordering::Relaxed) >= N_IN_FLIGHT {
                    std::thread::park_timeout(Duration::from_micros(200));
                    continue;
                }
                in_flight.fetch_add(1, Ordering::Relaxed);
                let (ended, failed) = (Arc::clone(&in_flight), Arc::clone(&n_failed));
                let request = GenerateRequest {
                    id: "cmpl-busy".to_string(),
                    prompt: engine.vocabulary().tokenize("a sea").unwrap(),
                    sampling: SamplingParams { max_tokens: 64, ignore_eos: true, ..SamplingParams::default() },
                    sink: Box::new(move |event| match event {
                        Event::Prompt { .. } | Event::Token { .. } => {}
                        Event::Finished(_) => drop(ended.fetch_sub(1, Ordering::Relaxed)),
                        Event::Failed(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }),
                    ..GenerateRequest::default()
                };
                engine.submit(Target::Live, request).unwrap();
            }
            n_failed.load(Ordering::Relaxed)
        });
        Traffic { stop, thread: Some(thread) }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Goal: traffic that never pauses neither starves the learner nor suffers from it. Method: every core is busy decoding; the
/// learner must be given rests, finish updates and swap versions, and no request may fail.
#[test]
fn the_learner_keeps_its_share_and_no_request_fails() {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = |policy: &mut config::Policy| policy.threads = n_cores;
    // Updates so long that somebody who starved would be seen starving.
    let mut world = World::with(busy, |config| (config.cpu_share, config.epochs) = (0.5, 16));
    world.feed();
    world.feed();
    let traffic = Traffic::start(world.engine.clone());
    let learner = world.start_learner();
    let history = world.until_updates(&learner, 2);
    assert!(history.iter().all(|record| record.outcome == UpdateOutcome::Promoted), "{history:?}");
    assert_eq!(traffic.end(), 0);
    if share::is_told_apart() {
        assert!(learner.counters().rests > 0, "nobody asked serving to rest");
    } else {
        println!("rests were not looked at: the tests themselves run at the learner's priority");
    }
    world.close();
}
