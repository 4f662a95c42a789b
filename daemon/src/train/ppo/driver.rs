//! The traffic of an offline run: draws a round of answers, hands them to the log, waits for the learner.

use std::time::{Duration, Instant};

use config::Config;
use policy::{FinishReason, Rollout, TokenId, sft::Shuffled};
use ppo::{
    learner::LearnerState,
    stats::{UpdateOutcome, UpdateRecord},
};

use super::{
    Args,
    ended::Ended,
    halt, handover,
    position::{Position, named},
    table::Table,
};
use crate::{
    cli::{progress, say},
    http::{Learning, Services},
    sampling::{Draw, rollouts},
    train::{
        error::{Result, TrainError},
        interrupt::Interrupt,
    },
};

/// How often the learner is looked at.
const LOOK: Duration = Duration::from_millis(20);
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
    position: Position,
    /// The update that ended last, as far as was looked.
    seen: Option<Ended>,
}

/// What the driver waits for.
enum Waited {
    /// The learner has ended an update.
    Over(Box<UpdateRecord>),
    /// So many rollouts are missing for the next one.
    Short(usize),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl<'a> Driver<'a> {
    /// For services that learn; lifts the halt of an earlier run where the arguments say so.
    ///
    /// # Errors
    /// When learning is halted, or the log cannot be read.
    pub(super) fn new(
        args: &'a Args,
        config: &Config,
        services: &'a Services,
        prompts: &'a [Vec<TokenId>],
        interrupt: &'a Interrupt,
    ) -> Result<Driver<'a>> {
        let learning = services.learning.as_ref();
        let learning = learning.ok_or_else(|| TrainError::Learner("it was not started".to_owned()))?;
        halt::lift(&learning.learner, &services.log, args.resume)?;
        let position = Position::after_log(&services.log.reader(), args.samples).map_err(failed)?;
        let mut prompts = Shuffled::new(prompts, config.ppo.seed);
        for _ in 0..position.prompt {
            prompts.draw();
        }
        Ok(Driver {
            args,
            services,
            learning,
            prompts,
            interrupt,
            rollouts_per_update: config.ppo.rollouts_per_update,
            log_queue: config.ppo.log.queue,
            seed: config.policy.seed,
            position,
            seen: None,
        })
    }

    /// After this update, the newest one that ended before the learner was started: the one that the last process died in is
    /// repeated meanwhile, and its end is this run's.
    pub(super) fn after(mut self, newest: Option<Ended>) -> Driver<'a> {
        self.seen = newest;
        self
    }

    /// Runs all updates and says what came of them.
    pub(super) fn run(mut self) -> Result<()> {
        let bar = progress::bar(self.args.updates as u64, "PPO");
        let mut table = Table::default();
        bar.suspend(|| say::show(Table::HEAD));
        let (mut n_failed, mut n_done) = (0, 0);
        while n_done < self.args.updates {
            let Some(record) = self.round()? else { break };
            bar.suspend(|| say::show(table.add(&record)));
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
        say::show(table.summary());
        let version = self.learning.learner.status().version;
        let path = self.services.registry.path(version);
        if n_done < self.args.updates {
            let kept = format!("the last whole version is {version}, in {}", path.display());
            return Err(TrainError::Interrupted { step: n_done, n_steps: self.args.updates, kept });
        }
        say::show(format_args!("{version} is in {}; serve it with: {}", path.display(), handover::command(self.args)));
        Ok(())
    }

    /// Draws until the learner has enough, and waits for the end of its update; `None` where somebody pressed Ctrl-C. What an
    /// earlier run has left in the log is learnt from first.
    fn round(&mut self) -> Result<Option<Box<UpdateRecord>>> {
        let mut n_draws = 0;
        loop {
            match self.wait()? {
                Waited::Over(record) => {
                    self.seen = Some(Ended::of(&record));
                    return Ok(Some(record));
                }
                Waited::Interrupted => return Ok(None),
                Waited::Short(_) if n_draws > REFILLS_MAX => {
                    let reason = "the answers cannot train; `honed rollouts stats` says why".to_owned();
                    return Err(TrainError::Learner(reason));
                }
                Waited::Short(n_rollouts) => {
                    self.draw(n_rollouts)?;
                    n_draws += 1;
                }
            }
        }
    }

    /// Draws at least so many answers and hands them to the log, in the order of their names; returns once they are in there.
    fn draw(&mut self, n_rollouts: usize) -> Result<()> {
        let n_prompts = n_rollouts.div_ceil(self.args.samples as usize);
        let prompts: Vec<Vec<TokenId>> = (0..n_prompts).map(|_| self.prompts.draw().clone()).collect();
        let start = self.position;
        self.position = start.after(n_prompts as u64);
        let what = Draw {
            version: self.services.engine.live(),
            n: self.args.samples,
            max_tokens: self.args.max_tokens,
            temperature: self.args.temperature as f32,
            seed: self.seed.wrapping_add(start.prompt),
        };
        let log = &self.services.log;
        let answers = (start.prompt..).zip(rollouts(&self.services.engine, &prompts, what)?);
        let answers = answers.flat_map(|(prompt, row)| row.into_iter().map(move |rollout| named(rollout, prompt)));
        for (i, rollout) in answers.skip(start.n_answers as usize).enumerate() {
            // The log's queue is bounded and never waits; a flush does.
            if i % self.log_queue == 0 {
                log.flush().map_err(failed)?;
            }
            log.append(cut_by_us(rollout)).map_err(failed)?;
        }
        log.flush().map_err(failed)
    }

    /// Waits for the end of an update that was not seen yet, or until the learner has too few rollouts for one.
    fn wait(&self) -> Result<Waited> {
        let mut failing_since = None::<Instant>;
        loop {
            let missing = self.missing()?;
            let status = self.learning.learner.status();
            if let Some(record) = status.latest.filter(|latest| self.seen != Some(Ended::of(latest))) {
                return Ok(Waited::Over(Box::new(record)));
            }
            if self.interrupt.is_raised() {
                return Ok(Waited::Interrupted);
            }
            match (status.state, missing) {
                (LearnerState::Waiting, Some(n_rollouts)) => return Ok(Waited::Short(n_rollouts)),
                (LearnerState::Halted(reason), _) => return Err(TrainError::Halted(reason)),
                (LearnerState::Unable(reason), _) => return Err(TrainError::Learner(reason)),
                (LearnerState::Failed(reason), _) => {
                    if failing_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(TrainError::Learner(reason));
                    }
                }
                _ => failing_since = None,
            }
            std::thread::sleep(LOOK);
        }
    }

    /// How many rollouts the log lacks for an update, once all that it has are judged and none is being learnt from.
    ///
    /// It holds where the learner, looked at *afterwards*, waits and has ended no other update: had it claimed something before
    /// the rollouts were counted, that update would be open still, or would have ended since. The learner's own counts are of
    /// its last look, and to draw because of old ones would change the run.
    fn missing(&self) -> Result<Option<usize>> {
        let reader = self.services.log.reader();
        let (n_scored, n_generated) = reader.backlog(self.rollouts_per_update).map_err(failed)?;
        let is_settled = n_generated == 0 && reader.open_update().map_err(failed)?.is_none();
        let missing = self.rollouts_per_update.saturating_sub(n_scored as usize);
        Ok((is_settled && missing > 0).then_some(missing))
    }
}

fn failed(error: impl std::fmt::Display) -> TrainError {
    TrainError::Learner(error.to_string())
}

/// Here the limit of an answer is ours and no client's: what it cuts off falls under the missing-EOS rule.
fn cut_by_us(mut rollout: Rollout) -> Rollout {
    if rollout.finish == FinishReason::ClientLimit {
        rollout.finish = FinishReason::DaemonLimit;
    }
    rollout
}
