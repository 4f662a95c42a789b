//! `honed bench swap`: what a client of a stream notices of a version swap.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ::ppo::{Registry, RolloutLog, registry::Candidate, rollout_log::LogSettings};
use policy::{PolicyVersion, checkpoint};

use super::load::Traffic;
use crate::{
    app::{Running, sft_file},
    cli::{ConfigArgs, Outcome, progress},
    http::wire::{
        json,
        measurement::{Quantiles, Swap},
    },
    scratch::Scratch,
    telemetry,
};

/// How to load and swap.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Streams at once.
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// Swaps.
    #[arg(long, default_value_t = 20)]
    swaps: u64,
    /// Milliseconds between two swaps.
    #[arg(long, default_value_t = 200)]
    pause_ms: u64,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 64)]
    max_tokens: u32,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &Args) -> Outcome {
    let scratch = Scratch::new("swap")?;
    let config = args.config.for_bench(scratch.path())?;
    telemetry::init_logging(&config.daemon.log_format, "error");
    let model = config.policy.model.clone();
    two_versions(scratch.path(), &sft_file(&config)?)?;
    let running = Running::start(config)?;
    let url = running.url();
    let traffic = Traffic {
        url: &url,
        concurrency: args.concurrency,
        max_tokens: args.max_tokens,
        prompt_words: 10,
        trains: false,
    };
    let pause = Duration::from_millis(args.pause_ms);
    traffic.during(|| std::thread::sleep(Duration::from_millis(500)));
    let (calm, ()) = traffic.during(|| std::thread::sleep(pause * u32::try_from(args.swaps).unwrap_or(u32::MAX)));
    let bar = progress::bar(args.swaps, "swapping under traffic");
    let (load, swaps) = traffic.during(|| {
        let swap = |i: u64| {
            std::thread::sleep(pause);
            bar.inc(1);
            activate(&url, i % 2)
        };
        (0..args.swaps).map(swap).collect::<Vec<_>>()
    });
    bar.finish_and_clear();
    let failed_swaps = swaps.iter().filter(|swap| swap.is_none()).count() as u64;
    let report = Swap {
        bench: "swap",
        model: if model.is_empty() { "built-in".to_owned() } else { model },
        concurrency: args.concurrency,
        swaps: args.swaps,
        failed_swaps,
        swap_ms: Quantiles::of(swaps.into_iter().flatten().collect()),
        failed_requests: load.failed,
        longest_token_gap_ms: load.itl_ms.max,
        longest_token_gap_without_swaps_ms: calm.itl_ms.max,
        traffic: load,
    };
    println!("{}", json(&report));
    running.stop()?;
    Ok(())
}

/// Version 1 with the weights of version 0: what a swap costs does not depend on their values.
fn two_versions(data_dir: &Path, sft: &Path) -> Outcome {
    let log = RolloutLog::open(data_dir, &LogSettings { commit_ms: 50, queue: 16, rescore_on_feedback: false })?;
    let registry = Registry::open(log.clone(), sft, 8)?;
    let version = PolicyVersion(1);
    std::fs::copy(sft, registry.path(version))?;
    let digest = checkpoint::digest(&registry.path(version))?;
    registry.register(&Candidate { version, parent: PolicyVersion::SFT, digest, n_rollouts: 0 })?;
    registry.publish(version, Vec::new(), [].into())?;
    log.close();
    Ok(())
}

/// Milliseconds that one activation took; `None` when it failed.
fn activate(url: &str, version: u64) -> Option<f64> {
    let asked = Instant::now();
    let reply = ureq::post(format!("{url}/v1/policies/{version}/activate")).send_empty();
    match reply {
        Ok(_) => Some(asked.elapsed().as_secs_f64() * 1e3),
        Err(error) => {
            tracing::warn!(%error, version, "a swap failed");
            None
        }
    }
}
