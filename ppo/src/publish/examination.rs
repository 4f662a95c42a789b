//! What the gate is shown of a candidate in memory.

use policy::{PolicyVersion, model_error::ModelError};

use super::{Proposal, PublishError, Publisher, text};
use crate::{
    gate::{self, Comparison, Evidence, Mode, Trial, Verdict, names},
    models::Models,
    parity::{self, ParityLimits},
};

impl Publisher<'_> {
    pub(super) fn examine(
        &self,
        version: PolicyVersion,
        proposal: &Proposal<'_>,
        parity_limits: ParityLimits,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Verdict, PublishError> {
        let n_broken_tensors = n_broken_tensors(proposal.models)?;
        if n_broken_tensors > 0 {
            // The engine's canary would fail over them, which looks like an accident and would be tried again.
            return Ok(Verdict::broken(n_broken_tensors));
        }
        self.load_candidate(version, go_on)?;
        let policy = &proposal.models.policy;
        let parity = parity::measure(self.engine, version, policy, proposal.sequences)?;
        if parity.max > parity_limits.expected {
            tracing::warn!(%version, max = parity.max, expected = parity_limits.expected, "engine and trainer disagree");
        }
        let looks = Mode::of(self.config) != Mode::Off;
        let is_sane = parity.max <= parity_limits.hard;
        // What is refused anyway need not stand trial.
        let trial = if looks && is_sane { self.trial(version, proposal, go_on)? } else { None };
        let alignment = if looks { gate::alignment(proposal.lessons) } else { None };
        if looks && alignment.is_none() {
            let lessons = proposal.lessons.len();
            tracing::info!(%version, lessons, "too few lessons to hold the update against them, or they do not differ");
        }
        let evidence = Evidence {
            n_broken_tensors,
            parity,
            parity_limits,
            stats: proposal.stats,
            alignment,
            trial: trial.as_ref(),
            lineage: &gate::rungs(self.registry, proposal.parent)?,
            ptx_rise: if looks { text::rise(proposal, self.config, go_on)? } else { None },
        };
        let mut verdict = gate::judge(&evidence, self.config);
        if verdict.is_pass() && looks && self.config.canary_share > 0.0 {
            self.fly_canary(version, proposal.parent, &mut verdict, go_on)?;
        }
        for doubt in &verdict.observed {
            tracing::warn!(%version, doubt, "the gate would have refused this candidate (ppo.gate = \"observe\")");
        }
        Ok(verdict)
    }

    /// Lets users judge what the gate has let pass.
    fn fly_canary(
        &self,
        version: PolicyVersion,
        live: PolicyVersion,
        verdict: &mut Verdict,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), PublishError> {
        let finding = self.canary(version, live, go_on)?;
        verdict.numbers.insert("canary/rollouts".to_string(), finding.n as f64);
        verdict.numbers.insert("canary/failed".to_string(), finding.n_failed as f64);
        let (name, number) = finding.t.map_or((names::CANARY_UNTESTED, 1.0), |t| ("canary/t", t));
        verdict.numbers.insert(name.to_string(), number);
        match Mode::of(self.config) {
            Mode::Strict => verdict.refusals.extend(finding.refusal),
            Mode::Observe | Mode::Off => verdict.observed.extend(finding.refusal),
        }
        verdict.summarise();
        Ok(())
    }

    fn trial(
        &self,
        version: PolicyVersion,
        proposal: &Proposal<'_>,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Comparison>, PublishError> {
        let Publisher { engine, scorer, config, .. } = *self;
        let trial = Trial { engine, scorer, questions: proposal.questions, config };
        Ok(trial.compare(version, proposal.parent, go_on)?)
    }
}

/// Tensors of the policy with a weight that is not finite.
fn n_broken_tensors(models: &Models) -> Result<usize, PublishError> {
    let mut n_broken = 0;
    for parameter in models.policy.parameters().values() {
        let sum = parameter.abs().and_then(|x| x.sum_all()?.to_scalar::<f32>());
        // Weights so large that their sum overflows are as broken as infinite ones.
        n_broken += usize::from(!sum.map_err(ModelError::from)?.is_finite());
    }
    Ok(n_broken)
}
