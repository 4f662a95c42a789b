//! What the gate is shown of a candidate in memory.

use policy::{PolicyVersion, model_error::ModelError};

use super::{Proposal, PublishError, Publisher, alignment, text};
use crate::{
    gate::{self, Comparison, Evidence, Mode, Trial, Verdict, drift},
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
        self.load(version)?;
        let policy = &proposal.models.policy;
        let parity = parity::measure(self.engine, version, policy, proposal.sequences)?;
        if parity.max > parity_limits.expected {
            tracing::warn!(%version, max = parity.max, expected = parity_limits.expected, "engine and trainer disagree");
        }
        let looks = Mode::of(self.config) != Mode::Off;
        let is_sane = n_broken_tensors == 0 && parity.max <= parity_limits.hard;
        // What is refused anyway need not stand trial.
        let trial = if looks && is_sane { self.trial(version, proposal, go_on)? } else { None };
        let evidence = Evidence {
            n_broken_tensors,
            parity,
            parity_limits,
            stats: proposal.stats,
            alignment: if looks { alignment::measure(policy, proposal.lessons)? } else { None },
            trial: trial.as_ref(),
            lineage: &self.rungs(proposal.parent)?,
            ptx_rise: if looks { text::rise(proposal)? } else { None },
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
        verdict.numbers.extend(finding.t.map(|t| ("canary/t".to_string(), t)));
        match Mode::of(self.config) {
            Mode::Strict => verdict.refusals.extend(finding.refusal),
            Mode::Observe | Mode::Off => verdict.observed.extend(finding.refusal),
        }
        let passed = f64::from(u8::from(verdict.is_pass()));
        verdict.numbers.insert("gate/pass".to_string(), passed);
        Ok(())
    }

    fn trial(
        &self,
        version: PolicyVersion,
        proposal: &Proposal<'_>,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Comparison>, PublishError> {
        let trial = Trial { engine: self.engine, scorer: self.scorer, questions: proposal.questions };
        Ok(trial.compare(version, proposal.parent, go_on)?)
    }

    /// What the trials of a version and its ancestors said, newest first.
    fn rungs(&self, version: PolicyVersion) -> Result<Vec<drift::Rung>, PublishError> {
        let mut rungs = Vec::new();
        for version in self.registry.lineage(version, drift::RUNGS_MAX as u64)? {
            let numbers = self.registry.row(version)?.map(|row| row.numbers).unwrap_or_default();
            let number = |name: &str| numbers.get(name).copied();
            let measured = number(gate::names::REWARD_DIFFERENCE).zip(number(gate::names::REWARD_DIFFERENCE_ERROR));
            rungs.extend(measured.map(|(mean, standard_error)| drift::Rung { mean, standard_error }));
        }
        Ok(rungs)
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
