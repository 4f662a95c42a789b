//! `honed why VERSION`: in plain words, what made a version and what became of it.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use clap::Args;
use policy::PolicyVersion;
use ppo::rollout_log::{FORGOTTEN, LogReader, LoggedRollout, Start, UpdateRow, UsedRollout, VersionRow, VersionState};
use ppo::{gate::names, import::UNJUDGED};

use super::{ConfigArgs, Outcome, clock::utc, rollouts};

/// Which version.
#[derive(Args)]
pub(crate) struct WhyArgs {
    /// Number of the version.
    version: u64,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Everything that the log knows about a version.
struct Story {
    row: VersionRow,
    children: Vec<PolicyVersion>,
    update: Option<UpdateRow>,
    used: Vec<UsedRollout>,
    /// Those of `used` that the log still has.
    rollouts: Vec<LoggedRollout>,
}

pub(super) fn run(args: &WhyArgs) -> Outcome {
    let story = Story::read(&rollouts::open(&args.config)?, PolicyVersion(args.version))?;
    let folder = Path::new(&args.config.load()?.daemon.data_dir).join("versions");
    print!("{}", story.tell(folder.join(&story.row.path).is_file()));
    Ok(())
}

impl Story {
    fn read(reader: &LogReader, version: PolicyVersion) -> Result<Story, Box<dyn std::error::Error + Send + Sync>> {
        let rows = reader.versions()?;
        let row = rows.iter().find(|row| row.version == version).cloned();
        let row = row.ok_or_else(|| format!("there is no {version}; `honed policies list` shows what there is"))?;
        let children = rows.iter().filter(|row| row.parent == Some(version)).map(|row| row.version).collect();
        let update = reader.update_of(version)?;
        let (used, rollouts) = match &update {
            Some(update) => {
                (reader.used_rollouts(update.start.number)?, reader.rollouts_of_update(update.start.number)?)
            }
            None => (Vec::new(), Vec::new()),
        };
        Ok(Story { row, children, update, used, rollouts })
    }

    fn tell(&self, has_file: bool) -> String {
        let mut text = format!("{} {}\n", self.row.version, self.state(has_file));
        let parts = [self.origin(), self.lessons(), self.judges(), self.steps(), self.verdict(), self.afterwards()];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            text.push_str(&part);
            text.push('\n');
        }
        text
    }

    fn state(&self, has_file: bool) -> String {
        let why = self.row.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        match self.row.state {
            VersionState::Live => "is live: it answers".to_owned(),
            VersionState::Candidate => "waits for the gate's verdict".to_owned(),
            VersionState::Draining => "was live and finishes what it runs".to_owned(),
            VersionState::Retained if has_file => "was live and can be activated again".to_owned(),
            VersionState::Retained => "was live, and its file is missing".to_owned(),
            VersionState::Rejected if !self.row.has_verdict() => format!("was given up without a verdict{why}"),
            VersionState::Rejected => format!("was refused{why}"),
            VersionState::Retired => format!("was live once; its file is gone{why}"),
        }
    }

    fn origin(&self) -> String {
        let (created, row) = (utc(self.row.created_ms), &self.row);
        let Some(parent) = row.parent else {
            return format!("It is the start that everything else came from, registered {created}.");
        };
        let Some(update) = &self.update else {
            return format!("It came after {parent} on {created}, and no update of this folder made it.");
        };
        let from = match update.start.start {
            Start::Continued => "",
            Start::Rebased => ", which had just been activated: with fresh moments, the value model as it was",
            Start::Fresh => ", with fresh moments and the value model at its beginning",
        };
        let again = match update.n_attempts {
            0 | 1 => String::new(),
            n => format!(" It took {n} attempts: the process died in the middle."),
        };
        format!("Update {} made it from {parent}{from}, finished {created}.{again}", update.start.number)
    }

    /// What it learnt from.
    fn lessons(&self) -> String {
        if self.used.is_empty() {
            return String::new();
        }
        let mut by_version: BTreeMap<PolicyVersion, usize> = BTreeMap::new();
        let mut by_user: BTreeMap<&str, usize> = BTreeMap::new();
        let mut n_nameless = 0;
        for logged in &self.rollouts {
            *by_version.entry(logged.rollout.version).or_default() += 1;
            match &logged.rollout.user {
                Some(user) => *by_user.entry(user).or_default() += 1,
                None => n_nameless += 1,
            }
        }
        let drawn = by_version.iter().map(|(version, n)| format!("{n} by {version}")).collect::<Vec<_>>().join(", ");
        let mut text = format!("It learnt from {} rollouts", self.used.len());
        if !drawn.is_empty() {
            let _ = write!(text, ", drawn {drawn}; of {} named users and {n_nameless} without a name", by_user.len());
        }
        text.push('.');
        if let Some((_, most)) = by_user.iter().max_by_key(|(_, n)| **n) {
            let share = 100.0 * *most as f64 / self.used.len() as f64;
            let _ = write!(text, " The user with most of them has {share:.0} %.");
        }
        let n_gone = self.used.len() - self.rollouts.len();
        if n_gone > 0 {
            let _ = write!(text, " {n_gone} of them have left the log since.");
        }
        if let Some(n) = self.row.numbers.get(FORGOTTEN) {
            let _ = write!(
                text,
                " {n:.0} of these because their user was forgotten; what they taught is still in the weights."
            );
        }
        text
    }

    /// Who judged, and how.
    fn judges(&self) -> String {
        let scores = self.used.iter().map(|used| used.score.score);
        let (low, high) = scores.clone().fold((f64::MAX, f64::MIN), |(low, high), s| (low.min(s), high.max(s)));
        let mut by_judge: BTreeMap<&str, usize> = BTreeMap::new();
        for used in &self.used {
            *by_judge.entry(used.score.reward_version.as_str()).or_default() += 1;
        }
        if by_judge.is_empty() {
            return String::new();
        }
        let mean = scores.sum::<f64>() / self.used.len() as f64;
        let judges: Vec<String> = by_judge.iter().map(|(judge, n)| format!("{judge} ({n})")).collect();
        format!("Scores came from {}: {mean:.3} on average, from {low:.3} to {high:.3}.", judges.join(", "))
    }

    /// What the update did.
    fn steps(&self) -> String {
        let number = |name: &str| self.row.numbers.get(name).copied();
        let facts = [
            ("steps of the policy", number("steps/policy"), 0),
            ("steps skipped", number("steps/skipped").filter(|n| *n > 0.0), 0),
            ("nats an episode from version 0", number("objective/kl"), 3),
            ("nats a token from its parent", number("policy/approxkl_k3"), 5),
            ("of steps clipped", number("policy/clipfrac_avg"), 3),
            ("tokens an answer", number("completions/mean_length"), 1),
            ("of answers ended by themselves", number("completions/eos_rate"), 2),
        ];
        let told = facts.into_iter().filter_map(|(what, x, digits)| Some(format!("{:.digits$} {what}", x?)));
        let told: Vec<String> = told.collect();
        if told.is_empty() { String::new() } else { format!("The update: {}.", told.join(", ")) }
    }

    /// What the gate said.
    fn verdict(&self) -> String {
        let number = |name: &str| self.row.numbers.get(name).copied();
        let Some(pass) = number("gate/pass") else {
            return String::new();
        };
        if number(UNJUDGED).is_some() {
            let verdict = if pass > 0.0 { "took it" } else { "refused it" };
            return format!("The gate {verdict} unjudged: there were no questions, or nobody to judge the answers.");
        }
        let trial = number(names::REWARD_DIFFERENCE).zip(number(names::REWARD_DIFFERENCE_ERROR));
        let trial = trial.map_or_else(String::new, |(mean, error)| {
            format!("; on held-out questions its reward differed by {mean:+.4} (standard error {error:.4}) from the live version's")
        });
        let parity = number("parity/max").zip(number("parity/limit"));
        let parity = parity.map_or_else(String::new, |(max, limit)| {
            format!("; engine and trainer were at most {max:.5} nats apart, of {limit:.5} allowed")
        });
        let verdict = if pass > 0.0 { "let it serve" } else { "refused it" };
        format!("The gate {verdict}{parity}{trial}.")
    }

    fn afterwards(&self) -> String {
        let children: Vec<String> = self.children.iter().map(ToString::to_string).collect();
        match &children[..] {
            [] => String::new(),
            [one] => format!("{one} came from it."),
            many => format!("{} came from it.", many.join(", ")),
        }
    }
}
