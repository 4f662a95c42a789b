//! What the gate says of a file, or of an average of weights: what it thinks of the live version's answers, and how it does
//! beside that version.
//!
//! No update of ours made these weights, so there are no lessons to be held against and no trainer to agree with. What is left is
//! what users would notice: the trial of [`crate::gate`], with the same random numbers, the same judge and the same limits as a
//! candidate of the learner has, and the sum of trials along the lineage. It has no canary (`ppo.canary_share`): the engine
//! flies one at a time, which may be the learner's, and whoever asked would wait for `ppo.canary_s`. A file becomes a child of the
//! live version, so the next candidate's lineage counts it too.

use std::time::{Duration, Instant};

use policy::PolicyVersion;

use super::{ImportError, ImportSetup, Importer, Obstacle, loss};
use crate::{
    gate::{self, Comparison, Mode, Trial, TrialError, Verdict},
    publish::place::once_there_is_room,
    rollout_log::Seq,
};

/// How long a file that is to be judged waits for room in memory: as long as a candidate may be asked and judged.
const PLACE_PATIENCE: Duration = Duration::from_secs(600);
/// Trials that are begun anew because another version went live meanwhile.
const TRIALS_MAX: usize = 3;

/// 1 in the report of a file that nobody judged beside the live version.
pub const UNJUDGED: &str = "gate/unjudged";

impl Importer {
    /// Brings it into memory, which ends with a canary, and judges it there.
    ///
    /// # Errors
    /// When the check could not be made, which is no pass.
    pub(super) fn judge(&self, version: PolicyVersion, obstacle: Option<Obstacle<'_>>) -> Result<Verdict, ImportError> {
        let ImportSetup { engine, registry, log, loss_max, gate, .. } = &*self.setup;
        let hindrance = || obstacle.and_then(|obstacle| obstacle());
        let go_on = || !engine.is_shutting_down() && hindrance().is_none();
        self.bring_in(version, &go_on)?;
        let loss = loss::measure(engine, log, version)?;
        let mode = Mode::of(gate);
        let mut verdict = Verdict::default();
        if mode != Mode::Off {
            let trial = self.trial(version, &go_on)?;
            verdict = gate::judge_stranger(trial.as_ref(), &gate::rungs(registry, engine.live())?, gate);
            self.say_what_was_missing(trial.as_ref(), mode, &mut verdict);
        }
        // Weights that are lost among the live version's answers are of no use to anybody, whatever `ppo.gate` says.
        if !loss.mean.is_finite() || (*loss_max > 0.0 && loss.mean > *loss_max) {
            let what = "log-prob lost on the live version's answers, nats per token";
            verdict.refusals.push(format!("{what}: expected at most {loss_max}, got {}", loss.mean));
        }
        verdict.numbers.extend(loss.numbers());
        for doubt in &verdict.observed {
            tracing::warn!(%version, doubt, "the gate would have refused it (ppo.gate = \"observe\")");
        }
        Ok(verdict)
    }

    /// Waits for the learner's candidate, say, which has come first: the copy and the number are spent.
    fn bring_in(&self, version: PolicyVersion, go_on: &(dyn Fn() -> bool + Sync)) -> Result<(), ImportError> {
        let ImportSetup { engine, registry, .. } = &*self.setup;
        let until = Instant::now() + PLACE_PATIENCE;
        let waits = || go_on() && Instant::now() < until;
        let load = || engine.load(version, &registry.path(version));
        if !once_there_is_room(engine, version, &waits, load)? {
            if !go_on() && !engine.is_shutting_down() {
                return Err(TrialError::Interrupted.into());
            }
            // Says who has the places, or that nothing is begun any more.
            load()?;
        }
        Ok(())
    }

    /// Where nobody was asked, or nobody judged, that is part of the report; `daemon.import_unjudged` says what follows.
    fn say_what_was_missing(&self, trial: Option<&Comparison>, mode: Mode, verdict: &mut Verdict) {
        let missing = match trial {
            None => "no questions: nobody has asked anything yet, and ppo.gate_file is empty, or ppo.gate_prompts is 0",
            Some(trial) if trial.reward.is_none() => {
                "no judge of the trial: no reward model or server, or fewer than eight different questions or answers \
                 (ppo.gate_prompts)"
            }
            Some(_) => return,
        };
        verdict.numbers.insert(UNJUDGED.to_owned(), 1.0);
        tracing::warn!(missing, "a model that no update made was not judged beside the live version");
        if self.setup.refuses_unjudged {
            let doubt = format!("{missing} (daemon.import_unjudged = \"refuse\")");
            let list = if mode == Mode::Strict { &mut verdict.refusals } else { &mut verdict.observed };
            list.push(doubt);
            verdict.summarise();
        }
    }

    /// Beside the live version; anew where that has changed meanwhile and left memory.
    fn trial(
        &self,
        version: PolicyVersion,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Comparison>, TrialError> {
        let ImportSetup { engine, log, gate, scorer, questions, .. } = &*self.setup;
        let rows = log.reader().newest(Seq(i64::MAX), gate::ROWS_MAX)?;
        let (quarantine, window) = (log.quarantine(), gate::Window::of(engine));
        let sources = gate::Sources { rows: &rows, file: questions, learnt: &[], quarantine, window };
        let questions = gate::questions(sources, gate, version.0);
        let trial = Trial { engine, scorer: scorer.as_ref(), questions: &questions, config: gate };
        let mut n_begun = 0;
        loop {
            let live = engine.live();
            n_begun += 1;
            match trial.compare(version, live, go_on) {
                Err(error) if engine.live() != live && n_begun < TRIALS_MAX && go_on() => {
                    tracing::info!(%error, "another version is live; the trial begins anew");
                }
                ended => return ended,
            }
        }
    }
}

/// Why a judging that has ended says nothing, of what makes way for others: it had to, or nobody could judge it.
pub(super) fn want_of_a_verdict(judged: &Result<Verdict, ImportError>, obstacle: Obstacle<'_>) -> Option<String> {
    let is_unjudged = |verdict: &Verdict| verdict.refusals.is_empty() && verdict.numbers.contains_key(UNJUDGED);
    let nobody = "there was nothing to judge it with: no questions, no judge, or too few different answers";
    obstacle().or_else(|| judged.as_ref().is_ok_and(is_unjudged).then(|| nobody.to_owned()))
}
