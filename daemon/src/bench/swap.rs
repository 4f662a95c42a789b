//! `honed bench swap`: what a client of a stream notices of a version swap.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use ::ppo::{
    Registry, RolloutLog,
    registry::Candidate,
    rollout_log::{LogSettings, VersionReport},
};
use policy::{PolicyVersion, checkpoint};

use super::{child::Daemon, load::Traffic};
use crate::{
    app::sft_file,
    cli::{ConfigArgs, Outcome, progress, say},
    http::wire::{
        client, json,
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
    /// Tokens of the longest answers; the shortest have half as many.
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
    publish_versions(scratch.path(), &sft_file(&config)?)?;
    let daemon = Daemon::start(&args.config, scratch.path())?;
    let url = daemon.url().to_owned();
    let traffic = Traffic {
        url: &url,
        concurrency: args.concurrency,
        max_tokens: args.max_tokens,
        prompt_words: 10,
        trains: false,
        ragged: true,
    };
    let pause = Duration::from_millis(args.pause_ms);
    traffic.during(|| std::thread::sleep(Duration::from_millis(500)))?;
    let (calm, ()) = traffic.during(|| std::thread::sleep(pause * u32::try_from(args.swaps).unwrap_or(u32::MAX)))?;
    let bar = progress::bar(args.swaps, "swapping under traffic");
    let mut rss_mib = [0; 2];
    let (load, gaps, swaps) = traffic.gaps_during(|| {
        let swap = |i: u64| {
            std::thread::sleep(pause);
            bar.inc(1);
            let swap = activate(&url, VERSIONS[i as usize % VERSIONS.len()]);
            if i == args.swaps / 10 {
                rss_mib[0] = daemon.rss_mib();
            }
            swap
        };
        (0..args.swaps).map(swap).collect::<Vec<_>>()
    })?;
    rss_mib[1] = daemon.rss_mib();
    bar.finish_and_clear();
    let (swaps, failed_swaps) = succeeded(swaps, "swaps")?;
    let rollbacks = between_the_last_two(args, &url, &traffic)?;
    let (rollbacks, failed_rollbacks) = succeeded(rollbacks, "rollbacks")?;
    let times: Vec<_> = swaps.iter().map(|swap| (swap.asked, swap.answered)).collect();
    let across = Quantiles::of(gaps.across(&times));
    let without = calm.itl_ms;
    let ratio = |ms: f64| (ms / without.p99.max(1e-9) * 1000.0).round() / 1000.0;
    let report = Swap {
        bench: "swap",
        model: if model.is_empty() { "built-in".to_owned() } else { model },
        concurrency: args.concurrency,
        swaps: args.swaps,
        failed_swaps,
        rollback_ms: Quantiles::of(rollbacks.iter().map(|swap| ms(swap.answered - swap.asked)).collect()),
        failed_rollbacks,
        swap_ms: Quantiles::of(swaps.iter().map(|swap| ms(swap.answered - swap.asked)).collect()),
        promote_to_first_token_ms: Quantiles::of(swaps.iter().map(|swap| ms(swap.first_token)).collect()),
        failed_requests: load.failed,
        token_gap_across_a_swap_ms: across,
        token_gap_without_swaps_ms: without,
        gap_ratio: ratio(across.max),
        gap_ratio_without_swaps: ratio(without.max),
        gap_ratio_p99: ratio(across.p99),
        rss_mib,
        traffic: load,
    };
    say::answer(json(&report))?;
    daemon.stop()?;
    Ok(())
}

/// After the swaps the last two versions are in memory, and the way between them is that of a rollback.
fn between_the_last_two(args: &Args, url: &str, traffic: &Traffic<'_>) -> Result<Vec<Swapped>, String> {
    let last_two = [args.swaps, args.swaps + 1].map(|i| VERSIONS[(i + 1) as usize % VERSIONS.len()]);
    let roll_back = |i: u64| {
        std::thread::sleep(Duration::from_millis(args.pause_ms));
        activate(url, last_two[i as usize % 2])
    };
    let (_, rollbacks) = traffic.during(|| (0..args.swaps).map(roll_back).collect())?;
    Ok(rollbacks)
}

/// Those that succeeded, and how many did not.
///
/// # Errors
/// When there were some and none succeeded: there is nothing to report, but why.
fn succeeded(all: Vec<Swapped>, what: &str) -> Result<(Vec<Activation>, u64), String> {
    let (good, failed): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    let n_failed = failed.len() as u64;
    match (good.is_empty(), failed.into_iter().find_map(Result::err)) {
        (true, Some(reason)) => Err(format!("none of {n_failed} {what} succeeded; the first failed with {reason}")),
        _ => Ok((good.into_iter().flatten().collect(), n_failed)),
    }
}

/// One more than stay in memory beside version 0, so that each swap from one to the next loads a file.
const VERSIONS: [u64; 3] = [1, 2, 3];

/// Versions with the weights of version 0: what a swap costs does not depend on their values.
fn publish_versions(data_dir: &Path, sft: &Path) -> Outcome {
    let log = RolloutLog::open(data_dir, &LogSettings { commit_ms: 50, queue: 16, rescore_on_feedback: false })?;
    let registry = Registry::open(log.clone(), sft, 8)?;
    for version in VERSIONS.map(PolicyVersion) {
        std::fs::copy(sft, registry.path(version))?;
        let digest = checkpoint::digest(&registry.path(version))?;
        registry.register(&Candidate { version, parent: PolicyVersion::SFT, digest, n_rollouts: 0 })?;
        registry.publish(version, Vec::new(), VersionReport::default())?;
    }
    log.close();
    Ok(())
}

/// One swap that succeeded.
struct Activation {
    asked: Instant,
    answered: Instant,
    /// From the answer to the first token of the next request.
    first_token: Duration,
}

/// A swap, or why it failed.
type Swapped = Result<Activation, String>;

/// It fails, too, when the next request does not get the version.
fn activate(url: &str, version: u64) -> Swapped {
    let swapped = swap(url, version);
    swapped.inspect_err(|error| tracing::warn!(%error, version, "a swap failed"))
}

fn swap(url: &str, version: u64) -> Swapped {
    let asked = Instant::now();
    let reply = ureq::post(format!("{url}/v1/policies/{version}/activate")).send_empty();
    let answered = Instant::now();
    reply.map_err(|error| error.to_string())?;
    let body = client::stream_of("the", 1, version, false);
    let reply = ureq::post(format!("{url}/v1/completions")).content_type("application/json").send(&body);
    let mut reply = reply.map_err(|error| format!("the request after it: {error}"))?;
    let of = reply.headers().get("x-honed-version").and_then(|of| of.to_str().ok()?.parse::<u64>().ok());
    let mut lines = BufReader::new(reply.body_mut().as_reader()).lines().map_while(Result::ok);
    let has_token = |line: &String| {
        let data = line.strip_prefix("data: ").filter(|data| *data != "[DONE]");
        data.is_some_and(|data| client::n_tokens(data.as_bytes()).is_ok_and(|n| n > 0))
    };
    lines.find(has_token).ok_or("the request after it got no token")?;
    let first_token = answered.elapsed();
    match of == Some(version) {
        true => Ok(Activation { asked, answered, first_token }),
        false => Err(format!("the request after it got version {of:?}")),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
