//! The learner: one owner thread that turns claimed rollouts into published versions, for as long as the daemon runs.
//!
//! ```text
//! claim B rollouts ─► round (experience, epochs, guards) ─► publish (write, load, gate, commit, promote) ─► again
//!        ▲                        │ error, panic                     │ refused: back to the weights before the round
//!        └──── given back ◄───────┘                                  └ rollouts dropped{gate}
//! ```
//!
//! # What it promises
//!
//! * *Serving never waits for it.* It talks to the engine as any client does, at nice 19 (`share` keeps its floor), and
//!   its failures end here: an error or a panic in an update gives the claim back, counts, and is tried again from the last
//!   good weights after a pause; rollouts that may be at fault for [`ATTEMPTS_MAX`] failures in a row are dropped (`failure`).
//! * *What it publishes is what it trained.* A publication comes to nothing unless the version that its round began from is
//!   still live. An activation ([`Learner::activate`]) or a rollback does not wait for the update at hand, it interrupts it:
//!   its weights would have been the child of a parent that was just left.
//! * *A live version that does harm is rolled back*, whether or not anything is learnt meanwhile (`watching`).
//! * *It can be looked at.* [`Learner::status`], [`Learner::history`] and [`Learner::counters`] never wait.
//! * *It cannot ruin a model unseen.* What guard rails say is counted, logged once with what to do about it, and obeyed
//!   (`rails`); after three rounds in a row that taught nothing it goes back to where it stood before the first of them.
//! * *It goes on where it stopped*, bit for bit, also after `kill -9` ([`crate::state`], [`crate::replay`], `unfinished`).

mod activation;
mod attempt;
mod batch;
mod bell;
mod claiming;
mod error;
mod failure;
mod halt;
mod no_step;
mod owner;
mod past;
mod rails;
mod rollback;
mod room;
mod saving;
mod share;
mod status;
#[cfg(test)]
mod tests;
mod trainer;
mod unfinished;
mod watching;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use policy::{PolicyVersion, TokenId, engine::Engine, sequence_batch::Sequence};
use reward::Scorer;

pub use crate::beginning::ValueStart;
pub use error::LearnerError;
pub(crate) use halt::is_halted;
pub use status::{HISTORY_MAX, LearnerState, LearnerStatus};

use crate::{
    publish::{Switch, Switched},
    registry::Registry,
    rollout_log::{RolloutLog, Who},
    stats::{LearnerCounters, LearnerCountersSnapshot, UpdateRecord},
};
use bell::Bell;
use past::Past;
use rollback::Rollback;
use status::Board;

/// Commands that wait at most.
const QUEUE: usize = 16;
/// Failures in a row after which the rollouts at hand are dropped instead of given back, where they may be at fault.
pub const ATTEMPTS_MAX: u32 = 3;

/// What a learner works with.
#[derive(Clone)]
pub struct LearnerSetup {
    /// Every knob of the section.
    pub config: config::Ppo,
    /// Where rollouts come from.
    pub log: RolloutLog,
    /// Where versions are kept.
    pub registry: Registry,
    /// Where versions serve.
    pub engine: Engine,
    /// Where the value model starts.
    pub value_start: ValueStart,
    /// Texts for `ppo.ptx`, from [`PretrainingTexts`](crate::update::PretrainingTexts).
    pub pretraining: Arc<[Sequence]>,
    /// Texts on which the gate measures what was forgotten.
    pub measured_texts: Arc<[Sequence]>,
    /// Who judges the trials of the gate; nobody where scores come from people alone.
    pub scorer: Option<Scorer>,
    /// Questions of the gate beside those from traffic: tokenised prompts.
    pub questions: Arc<[Vec<TokenId>]>,
}

/// What the owner thread can be told.
enum Command {
    Pause,
    Resume {
        /// Why learning stood still when somebody answered it.
        seen: Option<String>,
    },
    Step,
    Activate {
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: Who,
        reply: Sender<Result<(), LearnerError>>,
    },
    /// The bell was rung: another version serves, or should.
    Look,
    Shutdown,
}

/// Handle of the learner; clones share it.
#[derive(Clone)]
pub struct Learner {
    shared: Arc<Shared>,
}

struct Shared {
    commands: Sender<Command>,
    board: Arc<Board>,
    counters: Arc<LearnerCounters>,
    /// Asks the update at hand to break off.
    interrupt: Arc<AtomicBool>,
    /// Changes who serves, until the shutdown: whoever keeps a handle does not keep the folder.
    rollback: Mutex<Option<Arc<Rollback>>>,
    /// Ends when the thread has ended; nothing is ever received from it.
    ended: Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Learner {
    /// Starts the owner thread. It builds the models there: a model that cannot be trained is a state, not an error, because
    /// it can still be served.
    ///
    /// # Errors
    /// When the registry cannot be read or no thread can be started.
    pub fn start(setup: LearnerSetup) -> Result<Learner, LearnerError> {
        let live = setup.registry.live()?;
        let (commands, received) = bounded(QUEUE);
        let (alive, ended) = bounded(0);
        let past = Past::of(&setup, &live);
        let board = Arc::new(Board::new(live.version, setup.config.rollouts_per_update, past));
        let counters = Arc::new(LearnerCounters::default());
        let interrupt = Arc::new(AtomicBool::new(false));
        let switch = Switch::new(setup.engine.clone(), setup.registry.clone(), Arc::clone(&counters));
        let (bell, heard) = Bell::new(Arc::clone(&interrupt));
        let hears = owner::Hears { commands: received, calls: heard, interrupt: Arc::clone(&interrupt) };
        let tells = owner::Tells { board: Arc::clone(&board), counters: Arc::clone(&counters) };
        let rollback = Arc::new(Rollback::new(switch, bell, setup.log.clone(), Arc::clone(&board)));
        let owner = owner::Owner::new(setup, hears, tells, Arc::clone(&rollback));
        let thread = std::thread::Builder::new().name("learner".to_string()).spawn(move || {
            owner.run();
            drop(alive);
        })?;
        Ok(Learner {
            shared: Arc::new(Shared {
                commands,
                board,
                counters,
                interrupt,
                rollback: Mutex::new(Some(rollback)),
                ended,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// No further update begins; the one at hand is finished.
    ///
    /// # Errors
    /// [`LearnerError::Busy`] or [`LearnerError::Closed`].
    pub fn pause(&self) -> Result<(), LearnerError> {
        // The update at hand may still end.
        self.send_and_show(Command::Pause, true)
    }

    /// Updates begin again.
    ///
    /// # Errors
    /// [`LearnerError::Busy`] or [`LearnerError::Closed`].
    pub fn resume(&self) -> Result<(), LearnerError> {
        // This is the answer to what learning stands still for now, if it is heard.
        let seen = self.rollback().and_then(|rollback| rollback.halt.turn().read());
        self.send_and_show(Command::Resume { seen }, false)
    }

    /// While paused: one update, as soon as enough rollouts can be claimed.
    ///
    /// # Errors
    /// [`LearnerError::Busy`] or [`LearnerError::Closed`].
    pub fn step(&self) -> Result<(), LearnerError> {
        self.send(Command::Step)
    }

    /// Makes a retained version live (this is rollback), if `expected_live`, where given, still is. Interrupts the update
    /// at hand. Blocks until the version serves: not at all where it is in memory, and until its file is checked and loaded
    /// otherwise. That it was done is in the audit log; that it was refused is for whoever asked to note.
    ///
    /// # Errors
    /// When the compare-and-set lost, or the version is not in a state to serve; the live version is then what it was.
    pub fn activate(
        &self,
        version: PolicyVersion,
        expected_live: Option<PolicyVersion>,
        who: &Who,
    ) -> Result<(), LearnerError> {
        if self.switch(version, expected_live, who)? != Switched::NotInMemory {
            return Ok(());
        }
        let (reply, answer) = bounded(1);
        // Before the command, so that an update cannot begin between the two; whoever obeys it takes the flag down.
        self.shared.interrupt.store(true, Ordering::Release);
        let sent = self.send(Command::Activate { version, expected_live, who: who.clone(), reply });
        if let Err(error) = sent {
            self.shared.interrupt.store(false, Ordering::Release);
            return Err(error);
        }
        answer.recv().map_err(|_| LearnerError::Closed)?
    }

    /// What it is doing. Never waits.
    #[must_use]
    pub fn status(&self) -> LearnerStatus {
        self.shared.board.read()
    }

    /// The last [`HISTORY_MAX`] updates, oldest first; those of earlier processes as far as the log has them.
    #[must_use]
    pub fn history(&self) -> Vec<UpdateRecord> {
        self.shared.board.history()
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> LearnerCountersSnapshot {
        self.shared.counters.snapshot()
    }

    /// Breaks the update at hand off, gives its rollouts back, saves what a restart needs, and ends. Whether it ended before
    /// the deadline.
    pub fn shutdown(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.shared.rollback.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.interrupt.store(true, Ordering::Release);
        // A disconnected queue means that it has ended already.
        let _ = self.shared.commands.send_timeout(Command::Shutdown, deadline);
        let left = until.saturating_duration_since(Instant::now());
        if self.shared.ended.recv_timeout(left) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            return false;
        }
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the learner's thread panicked");
        }
        true
    }

    /// Until the shutdown.
    fn rollback(&self) -> Option<Arc<Rollback>> {
        self.shared.rollback.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a command and shows at once what it will have changed. Both under the board's lock, where the owner shows what it
    /// has obeyed unless more has been said since: so nobody who asked sees what was before.
    fn send_and_show(&self, command: Command, is_paused: bool) -> Result<(), LearnerError> {
        self.shared.board.write(|status| {
            self.send(command)?;
            status.is_paused = is_paused;
            Ok(())
        })
    }

    fn send(&self, command: Command) -> Result<(), LearnerError> {
        self.shared.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => LearnerError::Busy,
            TrySendError::Disconnected(_) => LearnerError::Closed,
        })
    }
}
