//! The owner thread: commands between attempts, attempts between commands.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, after, never, select_biased};
use policy::threads;

use super::{
    Board, Command, LearnerSetup, LearnerState,
    claiming::{Patience, Work},
    halt,
    rollback::Rollback,
    room, share,
    trainer::{BuildError, Trainer},
    watching::{Watch, WatchKeeper},
};
use crate::{parity, publish::Loader, stats::LearnerCounters};

/// Pause between two looks at the log while there are too few rollouts.
const POLL: Duration = Duration::from_millis(50);
/// Longest pause after an update that was computed in vain because somebody else was not there.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What it listens to.
pub(super) struct Hears {
    pub(super) commands: Receiver<Command>,
    /// From the bell.
    pub(super) calls: Receiver<()>,
    /// Asks the update at hand to break off.
    pub(super) interrupt: Arc<AtomicBool>,
}

/// Where it says what it does.
pub(super) struct Tells {
    pub(super) board: Arc<Board>,
    pub(super) counters: Arc<LearnerCounters>,
}

pub(super) struct Owner {
    pub(super) setup: LearnerSetup,
    commands: Receiver<Command>,
    calls: Receiver<()>,
    pub(super) board: Arc<Board>,
    pub(super) counters: Arc<LearnerCounters>,
    pub(super) interrupt: Arc<AtomicBool>,
    pub(super) trainer: Option<Trainer>,
    /// Failures in a row.
    pub(super) n_failures: u32,
    /// Those among them that rollouts may be at fault for.
    pub(super) n_suspicions: u32,
    /// After a claim that came to nothing.
    pub(super) patience: Patience,
    /// Somebody wants nothing to be learnt.
    is_paused: bool,
    /// Why a guard rail or the watch halted it, which holds nothing up any longer than that reason does.
    pub(super) halted: Option<String>,
    /// Over the live version.
    pub(super) watch: Arc<Watch>,
    pub(super) rollback: Arc<Rollback>,
    /// One update is wanted although it is paused.
    pub(super) is_stepping: bool,
    is_unable: bool,
    /// Nobody has asked yet whether there is memory.
    may_not_fit: bool,
    /// Nobody has looked yet whether the last process died in an update.
    pub(super) may_be_unfinished: bool,
    /// Removals from the log that it has seen.
    pub(super) n_removals: u64,
}

/// How an attempt ended, as far as the loop cares.
pub(super) enum Next {
    /// Look again at once.
    AtOnce,
    /// There are too few rollouts.
    Poll,
    /// It failed; rest first.
    BackOff(String),
    /// It failed because somebody else is not there; rest first, and as long as was computed in vain.
    Wait { reason: String, at_least: Duration },
}

impl Owner {
    pub(super) fn new(setup: LearnerSetup, hears: Hears, tells: Tells, rollback: Arc<Rollback>) -> Owner {
        let (Hears { commands, calls, interrupt }, Tells { board, counters }) = (hears, tells);
        let halted = halt::read(setup.log.data_dir());
        if let Some(why) = &halted {
            tracing::warn!(why, "learning stands still; POST /v1/training/resume goes on, or honed train ppo --resume");
            board.write(|status| status.is_paused = true);
        }
        Owner {
            n_removals: setup.log.n_removals(),
            watch: Arc::new(Watch::new(&setup)),
            rollback,
            setup,
            commands,
            calls,
            board,
            counters,
            interrupt,
            trainer: None,
            n_failures: 0,
            n_suspicions: 0,
            patience: Patience::default(),
            is_paused: false,
            halted,
            is_stepping: false,
            is_unable: false,
            may_not_fit: true,
            may_be_unfinished: true,
        }
    }

    pub(super) fn run(mut self) {
        // All must be started before this thread gives way: threads inherit the priority of who starts them.
        let started = Loader::start(self.setup.engine.clone());
        let watch = WatchKeeper::start(Arc::clone(&self.watch), Arc::clone(&self.rollback));
        let (loader, _watch) = match started.and_then(|loader| Ok((loader, watch?))) {
            Ok(started) => started,
            Err(error) => {
                let reason = format!("no threads for loading versions and watching over them: {error}");
                return self.board.set_state(LearnerState::Unable(reason));
            }
        };
        let _keeper = share::keep_of(&self.setup, &self.counters);
        threads::give_way();
        // What an earlier process stood still for may have left.
        self.hear_of_rollback();
        let mut wait = Some(Duration::ZERO);
        while self.obey(wait, &loader).is_continue() {
            self.save_if_bereft();
            if self.is_unable || (self.stands_still() && !self.is_stepping) {
                if !self.is_unable {
                    let state = self.halted.clone().map_or(LearnerState::Paused, LearnerState::Halted);
                    self.board.set_state(state);
                }
                // Nobody wakes it to save once more.
                self.save();
                wait = None;
                continue;
            }
            wait = Some(match self.advance(&loader) {
                Next::AtOnce => Duration::ZERO,
                Next::Poll => POLL,
                Next::BackOff(reason) => self.back_off(reason, Duration::ZERO),
                Next::Wait { reason, at_least } => self.back_off(reason, at_least.min(WAIT_MAX)),
            });
        }
        self.save();
        self.board.set_state(LearnerState::Stopped);
    }

    /// Waits for a command at most so long (for ever without a limit), and carries out all that are there.
    fn obey(&mut self, limit: Option<Duration>, loader: &Loader) -> ControlFlow<()> {
        let mut next = match self.next_command(limit) {
            Err(RecvTimeoutError::Timeout) => None,
            // The last handle is gone: nobody can want anything any more.
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
            Ok(command) => Some(command),
        };
        while let Some(command) = next {
            match command {
                Command::Pause => (self.is_paused, self.is_stepping) = (true, false),
                Command::Resume { seen } => {
                    if self.rollback.answered(seen.as_deref()) {
                        // Whatever made it unable may have been repaired; it will say so if not.
                        (self.is_paused, self.halted, self.is_unable) = (false, None, false);
                    }
                }
                Command::Step => self.is_stepping = self.stands_still(),
                Command::Activate { version, expected_live, who, reply } => {
                    let activated = self.activate(version, expected_live, &who, loader);
                    let must_follow = *activated.as_ref().unwrap_or(&false);
                    // Before the trainer follows, which takes its time. Whoever asked may have gone; the version serves all the same.
                    let _ = reply.send(activated.map(drop));
                    if must_follow {
                        self.follow();
                    }
                    self.interrupt.store(false, Ordering::Release);
                }
                Command::Look => {
                    self.obey_bell(loader);
                    self.interrupt.store(false, Ordering::Release);
                }
                Command::Shutdown => return ControlFlow::Break(()),
            }
            self.hear_of_rollback();
            self.show_pause();
            // The bell's calls too: what is obeyed here takes down the flag that goes with one.
            next = self.next_command(Some(Duration::ZERO)).ok();
        }
        ControlFlow::Continue(())
    }

    fn next_command(&self, limit: Option<Duration>) -> Result<Command, RecvTimeoutError> {
        let bell = limit.map_or_else(never, after);
        // In this order: what an operator wants comes first, and a limit of nothing must not hide what is there.
        select_biased! {
            recv(self.commands) -> command => command.map_err(|_| RecvTimeoutError::Disconnected),
            recv(self.calls) -> _ => Ok(Command::Look),
            recv(bell) -> _ => Err(RecvTimeoutError::Timeout),
        }
    }

    /// One look at the log, and one update if there is enough in it.
    fn advance(&mut self, loader: &Loader) -> Next {
        if self.interrupt.load(Ordering::Acquire) {
            // The command that goes with it is on its way.
            return Next::Poll;
        }
        if self.trainer.is_none() {
            self.board.set_state(LearnerState::Loading);
            // It can take minutes, in which somebody looks.
            if let Err(error) = self.count_backlog() {
                return Next::BackOff(error.to_string());
            }
            if self.may_not_fit {
                if let Err(error) = room::check(&self.setup) {
                    return self.cannot_build(&error);
                }
                self.may_not_fit = false;
            }
            match Trainer::build(&self.setup, &self.counters, &self.interrupt) {
                Ok(trainer) => self.adopt(trainer),
                // The command that goes with it is on its way.
                Err(error) if error.is_interrupted() => return Next::Poll,
                Err(error) => return self.cannot_build(&error),
            }
        }
        match self.next_work() {
            Ok(Work::Learn(rows)) => {
                self.is_stepping = false;
                self.attempt(rows, loader)
            }
            Ok(Work::RollBack(breach)) => match self.roll_back(&breach, loader) {
                Ok(()) => Next::AtOnce,
                Err(error) => Next::BackOff(format!("the rollback: {error}")),
            },
            Ok(Work::Nothing) => {
                self.board.set_state(LearnerState::Waiting);
                Next::Poll
            }
            Err(error) => Next::BackOff(error.to_string()),
        }
    }

    pub(super) fn adopt(&mut self, trainer: Trainer) {
        if self.setup.config.parity_gap_max == 0.0 {
            let precision = trainer.models.policy.precision();
            self.setup.config.parity_gap_max = parity::mean_limit(trainer.beginning.source(), precision);
        }
        let (version, update) = (trainer.head.version, trainer.head.update);
        self.board.write(|status| {
            status.version = version;
            status.n_updates = update;
        });
        self.trainer = Some(trainer);
        // Other rollouts may be fresh now.
        self.patience.end();
    }

    fn cannot_build(&mut self, error: &BuildError) -> Next {
        if !error.is_permanent() {
            return Next::BackOff(error.to_string());
        }
        tracing::error!(%error, "this model serves, but the learner cannot train it");
        self.is_unable = true;
        self.board.set_state(LearnerState::Unable(error.to_string()));
        Next::Poll
    }

    /// Whether nothing is learnt but single steps.
    pub(super) fn stands_still(&self) -> bool {
        self.is_paused || self.halted.is_some()
    }

    /// Unless more has been said since, which is shown already.
    pub(super) fn show_pause(&self) {
        self.board.write(|status| {
            if self.commands.is_empty() {
                status.is_paused = self.stands_still();
            }
        });
    }

    /// A halt outweighs what is under way: a step that was asked for before it is not made, and a learner that is unable shows
    /// the halt's reason; once resumed, it says again what it is unable to.
    pub(super) fn stand_still(&mut self) {
        (self.is_stepping, self.is_unable) = (false, false);
    }
}
