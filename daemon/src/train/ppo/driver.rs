//! The traffic of an offline run: draws a round of answers, hands them to the log, waits for the learner.

use std::time::{Duration, Instant};

use config::Config;
use policy::{FinishReason, Rollout, TokenId, sft::Shuffled};
use ppo::{
    learner::{LearnerState, LearnerStatus},
    stats::{UpdateOutcome, UpdateRecord},
};

use super::{Args, table::Table};
use crate::{
    cli::progress,
    http::{Learning, Services},
    sampling::{Draw, rollouts},
    train::{
        error::{Result, TrainError},
        interrupt::Interrupt,
    },
};

/// How often the learner is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long the learner may wait with nothing left to judge before the round is taken to be short.
const SHORT_AFTER: Duration = Duration::from_millis(500);
/// How long the learner may fail before it has even begun an update; its own pauses grow to a minute.
const PATIENCE: Duration = Duration::from_secs(150);
/// Failed updates in a row after which the run ends; the learner itself would go on for ever.
const FAILURES_MAX: usize = 3;
/// Refills of one round: after so many, its answers are not such as can train.
const REFILLS_MAX: usize = 5;

/// Everything that a run needs between loading and the end.
pub(super) struct Driver<'a> {
    args: &'a Args,
    services: &'a Services,
    learning: &'a Learning,
    prompts: Shuffled<'a, Vec<TokenId>>,
    interrupt: &'a Interrupt,
    rollouts_per_update: usize,
    log_queue: usize,
    seed: u64,
    n_rounds: u64,
}

/// How a round ended.
enum Round {
    /// The learner has ended an update.
    Over(Box<UpdateRecord>),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl<'a> Driver<'a> {
    /// For services that learn.
    pub(super) fn new(
        args: &'a Args,
        config: &Config,
        services: &'a Services,
        prompts: &'a [Vec<TokenId>],
        interrupt: &'a Interrupt,
    ) -> Result<Driver<'a>> {
        let learning = services.learning.as_ref();
        let learning = learning.ok_or_else(|| TrainError::Learner("it was not started".to_owned()))?;
        let n_updates = loaded(learning);
        Ok(Driver {
            args,
            services,
            learning,
            // A run that goes on must not draw what the one before it drew.
            prompts: Shuffled::new(prompts, config.ppo.seed.wrapping_add(n_updates)),
            interrupt,
            rollouts_per_update: config.ppo.rollouts_per_update,
            log_queue: config.ppo.log.queue,
            seed: config.policy.seed,
            n_rounds: n_updates,
        })
    }

    /// Runs all updates and says what came of them.
    pub(super) fn run(mut self) -> Result<()> {
        let bar = progress::bar(self.args.updates as u64, "PPO");
        let mut table = Table::default();
        bar.suspend(|| println!("{}", Table::HEAD));
        let (mut n_failed, mut n_done) = (0, 0);
        while n_done < self.args.updates {
            let Round::Over(record) = self.round()? else { break };
            bar.suspend(|| println!("{}", table.add(&record)));
            if record.outcome == UpdateOutcome::Failed {
                n_failed += 1;
                if n_failed == FAILURES_MAX {
                    return Err(TrainError::Learner(record.reason.unwrap_or_default()));
                }
                continue;
            }
            (n_failed, n_done) = (0, n_done + 1);
            bar.set_position(n_done as u64);
        }
        bar.finish_and_clear();
        println!("{}", table.summary());
        let version = self.learning.learner.status().version;
        let path = self.services.registry.path(version);
        if n_done < self.args.updates {
            let kept = format!("the last whole version is {version}, in {}", path.display());
            return Err(TrainError::Interrupted { step: n_done, n_steps: self.args.updates, kept });
        }
        println!(
            "{version} is in {}; serve it with: honed serve --data-dir {}",
            path.display(),
            self.args.out.display()
        );
        Ok(())
    }

    /// Draws until the learner has enough, then waits for the end of its update.
    fn round(&mut self) -> Result<Round> {
        let mut n_refills = 0;
        let status = self.learning.learner.status();
        let left = (status.n_scored + status.n_generated) as usize;
        let mut missing = match (&status.state, &status.latest) {
            // What an earlier round has left behind is learnt from first.
            (LearnerState::Waiting, _) => self.rollouts_per_update.saturating_sub(left),
            // The claim of a failed update was given back.
            (_, Some(record)) if record.outcome == UpdateOutcome::Failed => 0,
            _ => self.rollouts_per_update,
        };
        let before = status.latest;
        loop {
            if missing > 0 {
                self.draw(missing)?;
            }
            match self.wait(before.as_ref())? {
                Waited::Over(record) => return Ok(Round::Over(record)),
                Waited::Interrupted => return Ok(Round::Interrupted),
                Waited::Short(n) if n_refills < REFILLS_MAX => {
                    n_refills += 1;
                    missing = n;
                }
                Waited::Short(_) => {
                    let reason = "the answers cannot train; `honed rollouts stats` says why".to_owned();
                    return Err(TrainError::Learner(reason));
                }
            }
        }
    }

    fn draw(&mut self, n_rollouts: usize) -> Result<()> {
        let n_prompts = n_rollouts.div_ceil(self.args.samples as usize);
        let prompts: Vec<Vec<TokenId>> = (0..n_prompts).map(|_| self.prompts.draw().clone()).collect();
        let what = Draw {
            version: self.services.engine.live(),
            n: self.args.samples,
            max_tokens: self.args.max_tokens,
            temperature: self.args.temperature as f32,
            // Rounds are a million apart, so that no prompt of one repeats the stream of another.
            seed: self.seed.wrapping_add(self.n_rounds.wrapping_mul(1 << 20)),
        };
        self.n_rounds += 1;
        let log = &self.services.log;
        let failed = |error: &dyn std::fmt::Display| TrainError::Learner(error.to_string());
        for (i, rollout) in rollouts(&self.services.engine, &prompts, what)?.into_iter().flatten().enumerate() {
            // The log's queue is bounded and never waits; a flush does.
            if i % self.log_queue == 0 {
                log.flush().map_err(|error| failed(&error))?;
            }
            log.append(cut_by_us(rollout)).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Waits for an update after the one that ended last `before`.
    fn wait(&self, before: Option<&UpdateRecord>) -> Result<Waited> {
        let (mut idle_since, mut failing_since) = (None::<Instant>, None::<Instant>);
        loop {
            let status = self.learning.learner.status();
            if let Some(record) = status.latest.as_ref().filter(|latest| Some(*latest) != before) {
                return Ok(Waited::Over(Box::new(record.clone())));
            }
            if self.interrupt.is_raised() {
                return Ok(Waited::Interrupted);
            }
            match &status.state {
                LearnerState::Unable(reason) | LearnerState::Halted(reason) => {
                    return Err(TrainError::Learner(reason.clone()));
                }
                LearnerState::Failed(reason) => {
                    if failing_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(TrainError::Learner(reason.clone()));
                    }
                }
                _ => failing_since = None,
            }
            match self.shortage(&status) {
                None => idle_since = None,
                Some(n) if idle_since.get_or_insert_with(Instant::now).elapsed() > SHORT_AFTER => {
                    return Ok(Waited::Short(n));
                }
                Some(_) => {}
            }
            std::thread::sleep(LOOK);
        }
    }

    /// How many rollouts are missing when nothing more will come by itself.
    fn shortage(&self, status: &LearnerStatus) -> Option<usize> {
        let missing = self.rollouts_per_update.saturating_sub(status.n_scored as usize);
        (status.state == LearnerState::Waiting && status.n_generated == 0 && missing > 0).then_some(missing)
    }
}

/// Waits until the learner has its models, or cannot have them; updates that the folder has seen.
fn loaded(learning: &Learning) -> u64 {
    loop {
        let status = learning.learner.status();
        if status.state != LearnerState::Loading {
            return status.n_updates;
        }
        std::thread::sleep(LOOK);
    }
}

/// What the driver waited for.
enum Waited {
    Over(Box<UpdateRecord>),
    Interrupted,
    Short(usize),
}

/// Here the limit of an answer is ours and no client's: what it cuts off falls under the missing-EOS rule.
fn cut_by_us(mut rollout: Rollout) -> Rollout {
    if rollout.finish == FinishReason::ClientLimit {
        rollout.finish = FinishReason::DaemonLimit;
    }
    rollout
}
