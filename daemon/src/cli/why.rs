//! `honed why VERSION`: in plain words, what made a version and what became of it.

mod gate;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
};

use clap::Args;
use policy::{PolicyVersion, checkpoint};
use ppo::{
    registry::versions_folder,
    rollout_log::{
        Action, FORGOTTEN, LogError, LogReader, LoggedRollout, Start, UpdateRow, UsedRollout, VersionRow, VersionState,
    },
};

use super::{ConfigArgs, Outcome, clock::utc, rollouts, say};

/// Which version.
#[derive(Args)]
pub(crate) struct WhyArgs {
    /// Number of the version.
    version: u64,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What lies where a version's file should.
enum Weights {
    Whole,
    Damaged,
    Missing,
}

impl Weights {
    /// Reads all of the file: nothing less tells what an activation would say of it.
    fn of(path: &Path, digest: &str) -> Weights {
        match checkpoint::digest(path) {
            Ok(found) if found.to_string() == digest => Weights::Whole,
            Err(_) if !path.is_file() => Weights::Missing,
            _ => Weights::Damaged,
        }
    }
}

/// Everything that the log knows about a version.
struct Story {
    row: VersionRow,
    /// Versions whose update began with its weights.
    children: Vec<PolicyVersion>,
    /// Averages of its weights and of those before it.
    averages: Vec<PolicyVersion>,
    /// Versions that were brought from outside while it was live.
    brought_meanwhile: Vec<PolicyVersion>,
    is_brought: bool,
    was_live: bool,
    update: Option<UpdateRow>,
    used: Vec<UsedRollout>,
    /// Those of `used` that the log still has.
    rollouts: Vec<LoggedRollout>,
}

pub(super) fn run(args: &WhyArgs) -> Outcome {
    let story = Story::read(&rollouts::open(&args.config)?, PolicyVersion(args.version))?;
    let folder = versions_folder(Path::new(&args.config.load()?.daemon.data_dir));
    Ok(say::answer(story.tell(&folder.join(&story.row.path)).trim_end())?)
}

impl Story {
    fn read(reader: &LogReader, version: PolicyVersion) -> Result<Story, Box<dyn std::error::Error + Send + Sync>> {
        let rows = reader.versions()?;
        let row = rows.iter().find(|row| row.version == version).cloned();
        let row = row.ok_or_else(|| format!("there is no {version}; `honed policies list` shows what there is"))?;
        let (brought, activated) = (brought(reader)?, activated(reader)?);
        let after = rows.iter().filter(|row| row.parent == Some(version));
        let (averages, after): (Vec<_>, Vec<_>) = after.partition(|row| row.averaged().is_some());
        let averages = averages.into_iter().map(|row| row.version).collect();
        let (brought_meanwhile, children) =
            after.into_iter().map(|row| row.version).partition(|version| brought.contains(&version.to_string()));
        let is_brought = brought.contains(&version.to_string());
        // What an update made is kept only once it has served.
        let is_made = !is_brought && row.averaged().is_none();
        let was_live = is_made || activated.contains(&version.to_string());
        let update = reader.update_of(version)?;
        let (used, rollouts) = match &update {
            Some(update) => {
                (reader.used_rollouts(update.start.number)?, reader.rollouts_of_update(update.start.number)?)
            }
            None => (Vec::new(), Vec::new()),
        };
        Ok(Story { row, children, averages, brought_meanwhile, is_brought, was_live, update, used, rollouts })
    }

    fn tell(&self, path: &Path) -> String {
        let mut text = format!("{} {}\n", self.row.version, self.state(path));
        let parts = [self.origin(), self.lessons(), self.judges(), self.steps(), self.verdict(), self.afterwards()];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            text.push_str(&part);
            text.push('\n');
        }
        text
    }

    fn state(&self, path: &Path) -> String {
        let lived = if self.was_live { "was live" } else { "was never live" };
        let again = if self.was_live { " again" } else { "" };
        let why = self.row.end_reason().map_or_else(String::new, |reason| format!(": {reason}"));
        match self.row.state {
            VersionState::Live => "is live: it answers".to_owned(),
            VersionState::Candidate => "waits for the gate's verdict".to_owned(),
            VersionState::Draining => format!("was live and finishes what it runs{why}"),
            VersionState::Retained => match Weights::of(path, &self.row.digest) {
                Weights::Whole => format!("{lived} and can be activated{again}{why}"),
                Weights::Damaged => format!("{lived} and cannot be activated{again}, for its file is damaged{why}"),
                Weights::Missing => format!("{lived} and cannot be activated{again}, for its file is missing{why}"),
            },
            VersionState::Rejected if !self.row.has_verdict() => format!("was given up without a verdict{why}"),
            VersionState::Rejected => format!("was refused{why}"),
            VersionState::Retired => format!("{lived}; its file is gone{why}"),
        }
    }

    fn origin(&self) -> String {
        let (created, row) = (utc(self.row.created_ms), &self.row);
        let Some(parent) = row.parent else {
            return format!("It is the start that everything else came from, registered {created}.");
        };
        if let Some(of) = row.averaged() {
            return format!(
                "It is the {of} a round, taken on {created}; no update made it, and nothing makes it live by itself."
            );
        }
        if self.is_brought {
            return format!("It was brought from outside on {created}, while {parent} was live.");
        }
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
            ("off a score for them", number("objective/length_penalty"), 3),
            ("of answers ended by themselves", number("completions/eos_rate"), 2),
        ];
        let told = facts.into_iter().filter_map(|(what, x, digits)| Some(format!("{:.digits$} {what}", x?)));
        let told: Vec<String> = told.collect();
        if told.is_empty() { String::new() } else { format!("The update: {}.", told.join(", ")) }
    }

    fn afterwards(&self) -> String {
        let told = |versions: &[PolicyVersion], what: &str| {
            let names: Vec<String> = versions.iter().map(ToString::to_string).collect();
            (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")))
        };
        let n_brought = self.brought_meanwhile.len();
        let were = if n_brought == 1 { "was" } else { "were" };
        let is_one = self.averages.len() == 1;
        let average =
            if is_one { "is an average of weights up to its own." } else { "are averages of weights up to its own." };
        let parts = [
            told(&self.children, "came from it."),
            told(&self.averages, average),
            told(&self.brought_meanwhile, &format!("{were} brought from outside while it was live.")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// Names of the versions that were brought from outside, whatever became of them.
fn brought(reader: &LogReader) -> Result<BTreeSet<String>, LogError> {
    let noted = reader.imports()?.into_iter().filter_map(|row| row.version).map(|version| version.to_string());
    // An import's own row is written last, and only the newest are kept.
    Ok(noted.chain(done(reader, &[Action::Import])?).collect())
}

/// Names of the versions that were made live, but for those of a log without an audit log.
fn activated(reader: &LogReader) -> Result<BTreeSet<String>, LogError> {
    done(reader, &[Action::Promote, Action::Activate, Action::Rollback])
}

/// What these acts were done to.
fn done(reader: &LogReader, actions: &[Action]) -> Result<BTreeSet<String>, LogError> {
    let rows = reader.audit(0, i64::MAX as usize)?;
    let rows = rows.into_iter().filter(|row| row.is_done && actions.contains(&row.act.action));
    Ok(rows.filter_map(|row| row.act.subject).collect())
}
