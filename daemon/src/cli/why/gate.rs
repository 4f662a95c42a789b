//! What the gate said of a version, and whether there was one that looked.

use ppo::{
    gate::{Asked, names},
    import::UNJUDGED,
    rollout_log::VersionState,
};

use super::Story;

/// A knob as the record of an update has it.
const OFF: &str = "ppo.gate=\"off\"";
/// Begins what a gate objected to that let a version serve all the same.
const OBSERVED: &str = " It only observed (ppo.gate = \"observe\")";

impl Story {
    /// What the gate said.
    pub(super) fn verdict(&self) -> String {
        let number = |name: &str| self.row.numbers.get(name).copied();
        if !self.was_looked_at() {
            return format!("No gate looked at it (ppo.gate = \"off\"){}{}.", self.refusal(), self.parity());
        }
        let Some(pass) = number("gate/pass") else {
            return String::new();
        };
        // What no update made may be refused for what it lost after the gate had its say.
        let is_pass = pass > 0.0 && self.row.state != VersionState::Rejected;
        let objections = self.objections();
        if number(UNJUDGED).is_some() {
            let verdict = if is_pass { "took it" } else { "refused it" };
            let why = "there were no questions, or nobody to judge the answers";
            return format!("The gate {verdict} unjudged: {why}.{objections}");
        }
        let trial = number(names::REWARD_DIFFERENCE).zip(number(names::REWARD_DIFFERENCE_ERROR));
        let interval = number(names::REWARD_LOWER).zip(number(names::REWARD_UPPER));
        let interval = interval.map_or_else(String::new, |(lower, upper)| format!(", 95 % {lower:+.4} to {upper:+.4}"));
        let trial = trial.map_or_else(String::new, |(mean, error)| {
            format!(
                "; {} its reward differed by {mean:+.4} (standard error {error:.4}{interval}) from the live version's",
                self.asked()
            )
        });
        let verdict = if is_pass { "let it serve" } else { "refused it" };
        format!("The gate {verdict}{}{trial}.{}{objections}", self.parity(), self.missing())
    }

    /// What both were asked, and whether it knew that already.
    fn asked(&self) -> String {
        let number = |name: &str| self.row.numbers.get(name).map(|number| *number as usize);
        let counted = number(names::PROMPTS).zip(number(names::PROMPTS_HELD_OUT)).zip(number(names::PROMPTS_LEARNT));
        // A honed that did not count called all of them held out, which they were where a share of the users was.
        counted.map_or_else(
            || "on the questions of its trial".to_owned(),
            |((n_prompts, n_held_out), n_learnt)| format!("on {}", Asked { n_prompts, n_held_out, n_learnt }),
        )
    }

    /// Checks that there was too little for.
    fn missing(&self) -> String {
        let told = [
            (names::NO_ALIGNMENT, "It had too few lessons to be held against them, or they did not differ."),
            (
                names::NO_REWARD,
                "No trial compared its reward: nothing to ask, nobody to judge, or too few answers that differed.",
            ),
            (names::CANARY_UNTESTED, "Too few answers of its canary were judged for a test."),
        ];
        let told = told.into_iter().filter(|(name, _)| self.row.numbers.contains_key(*name));
        told.map(|(_, words)| format!(" {words}")).collect()
    }

    /// Of a file from outside nothing but the log-prob that it lost was measured then; of an update the record knows the mode.
    fn was_looked_at(&self) -> bool {
        let has = |name: &str| self.row.numbers.contains_key(name);
        match &self.update {
            Some(update) => !has("gate/pass") || update.start.config.lines().all(|line| line != OFF),
            None => has("gate/pass") || !has("import/loss"),
        }
    }

    /// What is checked whatever `ppo.gate` says may still have refused it.
    fn refusal(&self) -> &'static str {
        match self.row.state {
            VersionState::Rejected => ", but what is checked in any case refused it",
            _ => "",
        }
    }

    fn parity(&self) -> String {
        let number = |name: &str| self.row.numbers.get(name).copied();
        number("parity/max").zip(number("parity/limit")).map_or_else(String::new, |(max, limit)| {
            format!("; engine and trainer were at most {max:.5} nats apart, of {limit:.5} allowed")
        })
    }

    /// What would have refused it under `ppo.gate = "strict"`.
    fn objections(&self) -> String {
        let n_objections = self.row.numbers.get("gate/observed").copied().unwrap_or(0.0);
        match self.row.objections() {
            Some(objections) => format!("{OBSERVED}, and would have refused it: {objections}."),
            // Written by a honed that kept no words, or refused for something else.
            None if n_objections > 0.0 && self.row.state != VersionState::Rejected => {
                format!("{OBSERVED}; the words of its objections, {n_objections:.0}, were not kept.")
            }
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use policy::PolicyVersion;
    use ppo::rollout_log::{Start, UpdateRow, UpdateStart, VersionRow};

    use super::*;

    /// A version that an update under this mode made, or a file from outside.
    fn story(mode: Option<&str>, numbers: &[(&str, f64)], reason: Option<&str>) -> Story {
        let numbers: BTreeMap<String, f64> = numbers.iter().map(|(name, x)| ((*name).to_owned(), *x)).collect();
        let row = VersionRow {
            version: PolicyVersion(1),
            parent: Some(PolicyVersion::SFT),
            state: VersionState::Live,
            digest: "d".to_owned(),
            path: "policy-1.gguf".into(),
            created_ms: 1,
            n_rollouts: 8,
            reason: reason.map(str::to_owned),
            numbers,
        };
        Story {
            row,
            children: Vec::new(),
            averages: Vec::new(),
            brought_meanwhile: Vec::new(),
            is_brought: mode.is_none(),
            was_live: true,
            update: mode.map(update),
            used: Vec::new(),
            rollouts: Vec::new(),
        }
    }

    fn update(mode: &str) -> UpdateRow {
        let ppo = config::Ppo { gate: mode.to_owned(), ..config::Config::default().ppo };
        let start = UpdateStart {
            number: 0,
            start: Start::Continued,
            parent: PolicyVersion::SFT,
            parent_digest: "p".to_owned(),
            state_before: "s".to_owned(),
            config: ppo.assignments(),
            arithmetic: "cpu".to_owned(),
            n_threads: 1,
            pretraining: String::new(),
        };
        UpdateRow { start, lineage: Vec::new(), n_attempts: 1, claimed_ms: 1, ended_ms: Some(2), end: None }
    }

    const PASS: (&str, f64) = ("gate/pass", 1.0);

    #[test]
    fn what_an_observing_gate_objected_to_is_told() {
        let objections = "distinct pairs of tokens in the trial's answers: expected at least 0.4490, got 0.0054";
        let reason = format!("{}{objections}", VersionRow::OBSERVED);
        let numbers = [PASS, ("gate/observed", 1.0)];
        let mut told = story(Some("observe"), &numbers, Some(&reason));
        let verdict = told.verdict();
        assert!(verdict.starts_with("The gate let it serve. It only observed"), "{verdict}");
        assert!(verdict.ends_with(&format!("would have refused it: {objections}.")), "{verdict}");
        told.row.state = VersionState::Draining;
        told.row.reason = Some(format!("rolled back: reward fell; {reason}"));
        assert_eq!(told.state("".as_ref()), "was live and finishes what it runs: rolled back: reward fell");
        assert_eq!(told.verdict(), verdict);
        let old = story(Some("observe"), &numbers, None).verdict();
        assert!(old.ends_with("; the words of its objections, 1, were not kept."), "{old}");
        assert_eq!(story(Some("strict"), &[PASS, ("gate/observed", 0.0)], None).verdict(), "The gate let it serve.");
    }

    /// Goal: nothing is called held out that was not, and what could not be checked is told.
    #[test]
    fn what_was_asked_and_what_was_missing_is_told() {
        let of_trial = [(names::REWARD_DIFFERENCE, 0.5), (names::REWARD_DIFFERENCE_ERROR, 0.25)];
        let told =
            |more: &[(&str, f64)]| story(Some("strict"), &[&[PASS], &of_trial[..], more].concat(), None).verdict();
        let counted = |n, n_held_out, n_learnt| {
            let numbers = [n, n_held_out, n_learnt];
            let names = [names::PROMPTS, names::PROMPTS_HELD_OUT, names::PROMPTS_LEARNT];
            told(&names.into_iter().zip(numbers).collect::<Vec<_>>())
        };
        let differed = "its reward differed by +0.5000 (standard error 0.2500) from the live version's.";
        let said = |on: &str| format!("The gate let it serve; on {on} {differed}");
        assert_eq!(counted(32.0, 32.0, 0.0), said("32 held-out prompts"));
        assert_eq!(counted(32.0, 0.0, 0.0), said("32 prompts of recent traffic"));
        assert_eq!(counted(9.0, 0.0, 2.0), said("9 prompts (0 held out, 2 that the update had learnt from)"));
        assert_eq!(told(&[]), said("the questions of its trial"), "written by a honed that did not count");
        let missing = told(&[(names::NO_ALIGNMENT, 1.0), (names::CANARY_UNTESTED, 1.0)]);
        assert!(missing.contains(" It had too few lessons") && missing.ends_with("judged for a test."), "{missing}");
    }

    #[test]
    fn where_nobody_looked_no_gate_is_said_to_have_let_it_serve() {
        let parity = [("parity/max", 0.001), ("parity/limit", 0.02)];
        let apart = "; engine and trainer were at most 0.00100 nats apart, of 0.02000 allowed";
        let numbers = [PASS, ("gate/observed", 0.0), parity[0], parity[1]];
        let no_gate = "No gate looked at it (ppo.gate = \"off\")";
        assert_eq!(story(Some("off"), &numbers, None).verdict(), format!("{no_gate}{apart}."));
        let mut refused = story(Some("off"), &[("gate/pass", 0.0)], Some("2 tensors hold weights that are not finite"));
        refused.row.state = VersionState::Rejected;
        assert_eq!(refused.verdict(), format!("{no_gate}, but what is checked in any case refused it."));
        assert_eq!(story(None, &[("import/loss", 0.5)], None).verdict(), format!("{no_gate}."));
        assert_eq!(story(None, &[], None).verdict(), "", "nothing is known of it");
        let unjudged = story(None, &[PASS, (UNJUDGED, 1.0), ("import/loss", 0.5)], None).verdict();
        assert!(unjudged.starts_with("The gate took it unjudged"), "{unjudged}");
    }
}
