//! `honed bench serve --with-updates`: what clients notice of a learner that never rests, on the daemon as it is: traffic is
//! logged, judged and learnt from, and versions take over meanwhile.

use std::time::{Duration, Instant};

use super::{load::Traffic, serve::Args};
use crate::{
    app::Running,
    cli::{Outcome, progress, say},
    http::wire::{
        client, json,
        measurement::{Load, ServeWithUpdates},
    },
    scratch::Scratch,
    telemetry,
};

/// Settings that keep the learner busy: a round as soon as a few answers are judged. The user's own come after them.
const BUSY: [&str; 3] = ["ppo.enabled=true", "ppo.rollouts_per_update=64", "ppo.minibatch=32"];
/// Longest wait for the learner's first update.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn run(args: &Args) -> Outcome {
    let scratch = Scratch::new("updates")?;
    let config = args.config.for_bench_with(scratch.path(), &BUSY)?;
    telemetry::init_logging(&config.daemon.log_format, "error");
    let model = config.policy.model.clone();
    let running = Running::start(config)?;
    let url = running.url();
    let traffic = args.traffic(&url);
    let bar = progress::bar(3, "measuring");
    let measure = || -> Result<Load, String> {
        let (load, ()) = traffic.during(|| std::thread::sleep(Duration::from_secs(args.seconds)))?;
        bar.inc(1);
        Ok(load)
    };
    command(&url, "pause")?;
    traffic.during(|| std::thread::sleep(Duration::from_millis(500)))?;
    let idle = measure()?;
    command(&url, "resume")?;
    wait_for_updates(&traffic, &url)?;
    let before = updates(&url)?;
    let with_updates = measure()?;
    let n_updates = updates(&url)? - before;
    command(&url, "pause")?;
    wait_for_rest(&url)?;
    let idle_again = measure()?;
    bar.finish_and_clear();
    let calm = (idle.itl_ms.p99 + idle_again.itl_ms.p99) / 2.0;
    let report = ServeWithUpdates {
        bench: "serve-with-updates",
        model: if model.is_empty() { "built-in".to_owned() } else { model },
        concurrency: args.concurrency,
        max_tokens: args.max_tokens,
        updates: n_updates,
        itl_p99_ratio: (with_updates.itl_ms.p99 / calm.max(1e-9) * 1000.0).round() / 1000.0,
        idle,
        with_updates,
        idle_again,
    };
    say::answer(json(&report))?;
    running.stop()?;
    Ok(())
}

/// Traffic until the learner has made its first update: then its models are loaded and its pages are its own.
fn wait_for_updates(traffic: &Traffic<'_>, url: &str) -> Outcome {
    let (_, outcome) = traffic.during(|| until(url, |status| status.updates > 0))?;
    outcome
}

/// Until a paused learner has ended the update at hand.
fn wait_for_rest(url: &str) -> Outcome {
    until(url, |status| status.state == "paused")
}

fn until(url: &str, is_so: impl Fn(&client::TrainingStatus) -> bool) -> Outcome {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let status = status(url)?;
        if is_so(&status) {
            return Ok(());
        }
        if let Some(reason) = status.reason {
            return Err(format!("the learner is {}: {reason}", status.state).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("the learner made no update in time".into())
}

fn updates(url: &str) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    Ok(status(url)?.updates)
}

fn status(url: &str) -> Result<client::TrainingStatus, Box<dyn std::error::Error + Send + Sync>> {
    let body = ureq::get(format!("{url}/v1/training")).call()?.body_mut().read_to_vec()?;
    Ok(client::training(&body)?)
}

fn command(url: &str, word: &str) -> Outcome {
    ureq::post(format!("{url}/v1/training/{word}")).send_empty()?;
    Ok(())
}
