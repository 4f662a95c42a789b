//! The run: a daemon, users, a learner; then what came of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use candle_core::Device;
use config::{Config, Sources};
use policy::{byte_pair::Bpe, causal_lm::CausalLm, checkpoint::Checkpoint, sequence_batch::Sequence, sft::mean_nll};
use ppo::metrics;

use super::{
    args::Args,
    artefacts::{POLICY, WORLD_SEED},
    client::Client,
    encoder::Encoder,
    error::{DemoError, Result},
    evaluation::{Judged, evaluate, level, reward_accuracy},
    progress::Progress,
    scratch::{HELD_OUT_DOCUMENTS, MEASURE_TOKENS},
    story::{SideBySide, Station, Story},
    traffic::{Habits, Traffic},
    world::{Prompt, Split, World},
};
use crate::{
    app::Running,
    cli::{ALONE, knob_path, own_daemon},
    http::wire::client::VersionRow,
};

/// Knobs that differ from a production daemon's because the model is tiny and the audience waits.
const SETTINGS: [&str; 13] = [
    "daemon.listen=127.0.0.1:0",
    "policy.threads=1",
    "policy.parallel=16",
    "ppo.rollouts_per_update=128",
    "ppo.minibatch=32",
    "ppo.epochs=1",
    "ppo.policy_learning_rate=2e-4",
    "ppo.value_learning_rate=1e-3",
    "ppo.warmup_updates=3",
    "ppo.kl_coef=0.08",
    "ppo.max_staleness=2",
    "ppo.is_geo_low=0.5",
    "ppo.is_geo_high=2.0",
];
/// Users at once, and how long they think.
const HABITS: Habits = Habits { users: 6, think: Duration::from_millis(120) };
/// Held-out prompts of the first and the last measurement.
const HELD_OUT: usize = 400;
/// Of them, those that every version on the way is measured with.
const ON_THE_WAY: usize = 96;
/// Prompts with several fresh answers for the reward model's accuracy.
const FRESH: usize = 80;
/// How often the run looks for a new version.
const LOOK: Duration = Duration::from_millis(400);

/// What the run works with.
struct Stage<'a> {
    args: &'a Args,
    progress: &'a Progress,
    world: World,
    client: Client,
    prompts: Vec<Prompt>,
    started: Instant,
}

/// Runs it; `artefacts` replaces the built-in model.
pub(super) fn run(args: &Args, artefacts: Option<&Path>, progress: &Progress) -> Result<Story> {
    let folder = Folder::new(args.data_dir.clone())?;
    let config = config(args, artefacts, &folder.path)?;
    let started = Instant::now();
    let running = Running::start(config).map_err(|error| DemoError::Daemon(error.to_string()))?;
    let client = Client::new(running.address());
    client.wait_ready(Duration::from_secs(60))?;
    progress.line(&format!("serving at http://{}", running.address()));
    let world = World::new(WORLD_SEED);
    let split = if args.validate { Split::Validation } else { Split::Test };
    let prompts = world.prompts(split, "held-out").take(HELD_OUT).collect();
    let stage = Stage { args, progress, world, client, prompts, started };
    let mut story = stage.perform()?;
    running.stop().map_err(|error| DemoError::Daemon(error.to_string()))?;
    story.pretraining_nll = pretraining_nll(world, artefacts, &folder.path, story.promoted)?;
    story.seconds = started.elapsed().as_secs_f64();
    Ok(story)
}

/// A folder that goes when the run does, unless it was named.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(named: Option<PathBuf>) -> Result<Folder> {
        let temporary = named.is_none();
        let path = named.unwrap_or_else(|| std::env::temp_dir().join(format!("honed-demo-{}", std::process::id())));
        std::fs::create_dir_all(&path).map_err(DemoError::io(&path))?;
        Ok(Folder { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is in the system's folder for temporary files, where it is looked after.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn config(args: &Args, artefacts: Option<&Path>, data_dir: &Path) -> Result<Config> {
    let mut sets: Vec<String> = ALONE.iter().chain(&SETTINGS).map(|&set| set.to_owned()).collect();
    sets.push(format!("policy.seed={}", args.seed));
    sets.push(format!("ppo.seed={}", args.seed));
    sets.push(format!("daemon.data_dir={}", knob_path("--data-dir", data_dir)?));
    if let Some(folder) = artefacts {
        sets.push(format!("policy.model={}", knob_path("--artefacts", &folder.join("policy.gguf"))?));
        sets.push(format!("reward.model={}", knob_path("--artefacts", &folder.join("reward.gguf"))?));
    }
    sets.extend(args.set.iter().cloned());
    Ok(own_daemon(Sources::of_process(None, sets))?)
}

impl Stage<'_> {
    fn perform(&self) -> Result<Story> {
        let first = evaluate(&self.client, "sft", &self.prompts)?;
        let gold = level(&first);
        self.progress.line(&format!("sft: gold {:.3} on {} held-out prompts (1 is perfect)", gold.mean, first.len()));
        let traffic = Traffic::start(&self.client, self.world, self.args.seed, HABITS, self.started);
        let stations = self.watch(&traffic, gold);
        let seen = traffic.stop();
        let mut stations = stations?;
        let (live, rows, last) = self.last_version()?;
        self.fill(&mut stations, &rows);
        let model = format!("policy@{live}");
        if let Some(station) = stations.iter_mut().find(|station| station.version == live) {
            station.gold = Some(level(&last));
        }
        let fresh = &self.prompts[..FRESH.min(self.prompts.len())];
        Ok(Story {
            seed: self.args.seed,
            gold: (gold, level(&last)),
            win_rate: win_rate(&first, &last),
            promoted: stations.iter().filter(|station| station.version > 0).count() as u64,
            rm_accuracy: reward_accuracy(&self.client, &model, fresh, 4)?,
            n_held_out: self.prompts.len(),
            answers: side_by_side(&self.prompts, &first, &last),
            pretraining_nll: (0.0, 0.0),
            seconds: 0.0,
            stations,
            seen,
        })
    }

    /// The last version with its answers to all held-out prompts. The learner is paused first; a round that was running
    /// then may still promote one more, so a version that drains under the measurement is measured again as what it became.
    fn last_version(&self) -> Result<(u64, Vec<VersionRow>, Vec<Judged>)> {
        self.client.pause_learning()?;
        let mut tries = 0;
        loop {
            let (live, rows) = self.client.versions()?;
            let judged = evaluate(&self.client, &format!("policy@{live}"), &self.prompts);
            let (now, _) = self.client.versions()?;
            match judged {
                Ok(judged) if now == live => return Ok((live, rows, judged)),
                Err(error) if now == live || tries == 5 => return Err(error),
                _ => tries += 1,
            }
        }
    }

    /// Follows the live version until enough were promoted or the time is over; measures what it meets.
    fn watch(&self, traffic: &Traffic, first: super::evaluation::Level) -> Result<Vec<Station>> {
        let bar = self.progress.bar("versions");
        let began = Instant::now();
        let mut stations = vec![Station { version: 0, seconds: 0.0, gold: Some(first), numbers: Default::default() }];
        loop {
            let (live, rows) = self.client.versions()?;
            let known = stations.last().map_or(0, |station| station.version);
            if live > known {
                let seconds = self.started.elapsed().as_secs_f64();
                for row in rows.iter().filter(|row| row.version > known && row.version <= live && was_live(row)) {
                    stations.push(Station { version: row.version, seconds, gold: None, numbers: row.numbers.clone() });
                }
                self.look_at(live, &mut stations);
            }
            let (answered, failed) = traffic.counts();
            let gold = stations.iter().rev().find_map(|station| station.gold).unwrap_or(first);
            let kl = stations.last().and_then(|station| station.numbers.get("objective/kl")).copied().unwrap_or(0.0);
            let message = format!("gold {:.3}  KL {kl:.2}  {answered} requests, {failed} failed", gold.mean);
            bar.set((stations.len() - 1) as u64, self.args.updates, &message);
            let done = stations.len() as u64 > self.args.updates;
            if done || began.elapsed() >= Duration::from_secs(self.args.seconds) {
                bar.finish();
                return Ok(stations);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Measures a version on the way. It may drain before it has answered everything; then it stays unmeasured.
    fn look_at(&self, version: u64, stations: &mut [Station]) {
        let prompts = &self.prompts[..ON_THE_WAY.min(self.prompts.len())];
        if let (Ok(judged), Some(station)) =
            (evaluate(&self.client, &format!("policy@{version}"), prompts), stations.last_mut())
        {
            station.gold = Some(level(&judged));
        }
    }

    /// Versions that were promoted between two looks, and the numbers that were written late.
    fn fill(&self, stations: &mut Vec<Station>, rows: &[VersionRow]) {
        for row in rows.iter().filter(|row| row.version > 0 && was_live(row)) {
            match stations.iter_mut().find(|station| station.version == row.version) {
                Some(station) => station.numbers = row.numbers.clone(),
                None => stations.push(Station {
                    version: row.version,
                    seconds: self.started.elapsed().as_secs_f64(),
                    gold: None,
                    numbers: row.numbers.clone(),
                }),
            }
        }
        stations.sort_by_key(|station| station.version);
    }
}

/// Whether users ever met this version.
fn was_live(row: &VersionRow) -> bool {
    !matches!(row.state.as_str(), "candidate" | "rejected")
}

/// Paired by prompt: both answered with the same seed.
fn win_rate(first: &[Judged], last: &[Judged]) -> (f64, f64, f64) {
    let (mut wins, mut ties, mut losses) = (0, 0, 0);
    for (before, after) in first.iter().zip(last) {
        match after.gold.total().total_cmp(&before.gold.total()) {
            std::cmp::Ordering::Greater => wins += 1,
            std::cmp::Ordering::Equal => ties += 1,
            std::cmp::Ordering::Less => losses += 1,
        }
    }
    metrics::win_rate(wins, ties, losses).map_or((0.5, 0.0, 1.0), |rate| (rate.rate, rate.ci95.0, rate.ci95.1))
}

fn side_by_side(prompts: &[Prompt], first: &[Judged], last: &[Judged]) -> Vec<SideBySide> {
    let pair = |judged: &Judged| (judged.answer.clone(), judged.gold.total());
    let rows = prompts.iter().zip(first).zip(last).map(|((prompt, before), after)| SideBySide {
        kind: prompt.kind,
        instruction: prompt.instruction.clone(),
        before: pair(before),
        after: pair(after),
    });
    rows.collect()
}

/// Loss on pretraining text that nothing was trained on, of version 0 and of the last one, nats a token.
fn pretraining_nll(world: World, artefacts: Option<&Path>, data_dir: &Path, promoted: u64) -> Result<(f64, f64)> {
    let sft = match artefacts {
        Some(folder) => Checkpoint::read(&folder.join("policy.gguf"))?,
        None => Checkpoint::from_bytes(POLICY)?,
    };
    let bpe = Bpe::from_metadata(&sft.metadata)?;
    let documents = world.documents("held-out").take(HELD_OUT_DOCUMENTS);
    let encoder = Encoder(&bpe);
    let held_out = documents.map(|document| encoder.document(&document)).collect::<Result<Vec<Sequence>>>()?;
    let measure = |checkpoint: &Checkpoint| -> Result<f64> {
        Ok(mean_nll(&CausalLm::from_checkpoint(checkpoint, &Device::Cpu)?, &held_out, MEASURE_TOKENS)?)
    };
    let first = measure(&sft)?;
    if promoted == 0 {
        return Ok((first, first));
    }
    Ok((first, measure(&Checkpoint::read(&live_file(data_dir)?)?)?))
}

/// The file of the version that was live when the daemon stopped.
fn live_file(data_dir: &Path) -> Result<PathBuf> {
    let log = |error: ppo::rollout_log::LogError| DemoError::Daemon(error.to_string());
    let rows = ppo::rollout_log::LogReader::open(data_dir).map_err(log)?.versions().map_err(log)?;
    let live = rows.into_iter().find(|row| row.state == ppo::rollout_log::VersionState::Live);
    let live = live.ok_or_else(|| DemoError::Daemon("no version is live".to_owned()))?;
    Ok(ppo::registry::versions_folder(data_dir).join(live.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::world::Gold;

    #[test]
    fn wins_are_counted_prompt_by_prompt_and_ties_half() {
        let judged = |totals: &[f64]| -> Vec<Judged> {
            let one = |helpful: &f64| Judged {
                answer: String::new(),
                gold: Gold { helpful: *helpful, honest: 1.0, harmless: 1.0, ends: 1.0 },
            };
            totals.iter().map(one).collect()
        };
        let (rate, low, high) = win_rate(&judged(&[0.0, 0.5, 0.5, 1.0]), &judged(&[1.0, 0.5, 0.9, 0.9]));
        assert_eq!(rate, 0.625);
        assert!(low < rate && rate < high);
    }

    #[test]
    fn the_settings_of_the_demonstration_are_knobs_that_exist() {
        let args = <Args as clap::FromArgMatches>::from_arg_matches(
            &<Args as clap::Args>::augment_args(clap::Command::new("demo")).get_matches_from([
                "demo",
                "--set",
                "ppo.kl_coef=0.5",
            ]),
        );
        let config = config(&args.expect("well-formed"), None, Path::new("/nowhere")).expect("every knob exists");
        assert_eq!((config.daemon.data_dir.as_str(), config.ppo.kl_coef), ("/nowhere", 0.5));
    }
}
