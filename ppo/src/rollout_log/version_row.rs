//! A version of the policy as a row, and the steps of its life.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use policy::PolicyVersion;

use super::update_row::Settlement;

/// Where a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VersionState {
    /// Written and registered, not yet judged by the gate.
    Candidate,
    /// Answers new requests. At most one row.
    Live,
    /// Was live; finishes what it runs.
    Draining,
    /// On disk, may be activated again.
    Retained,
    /// Refused by the gate; its file is gone.
    Rejected,
    /// Past `ppo.keep_versions`, or found missing or damaged; it cannot be activated.
    Retired,
}

impl VersionState {
    /// All states.
    pub const ALL: [VersionState; 6] = [
        VersionState::Candidate,
        VersionState::Live,
        VersionState::Draining,
        VersionState::Retained,
        VersionState::Rejected,
        VersionState::Retired,
    ];

    /// The word in the column and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            VersionState::Candidate => "candidate",
            VersionState::Live => "live",
            VersionState::Draining => "draining",
            VersionState::Retained => "retained",
            VersionState::Rejected => "rejected",
            VersionState::Retired => "retired",
        }
    }

    pub(super) fn parse(word: &str) -> Option<VersionState> {
        VersionState::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// One version of the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionRow {
    /// Its number, never reused.
    pub version: PolicyVersion,
    /// The version whose weights the update started from; `None` for version 0.
    pub parent: Option<PolicyVersion>,
    /// Where it stands.
    pub state: VersionState,
    /// Digest of the file.
    pub digest: String,
    /// The file, relative to the versions folder where the row comes from the log itself.
    pub path: PathBuf,
    /// When it was registered, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Rollouts that trained it.
    pub n_rollouts: u64,
    /// Why it was rejected, retired or rolled back, and then, after [`VersionRow::OBSERVED`], what the gate objected to: no reason
    /// against serving, for it only observed.
    pub reason: Option<String>,
    /// The gate's report and the update's numbers, by metric name.
    pub numbers: BTreeMap<String, f64>,
}

impl VersionRow {
    /// 1 in the numbers of a candidate that was given up before there was a verdict on its weights.
    pub const NO_VERDICT: &str = "gate/no_verdict";
    /// 1 in the numbers of a file that passed and is to go live, until it has.
    pub const AWAITS_PROMOTION: &str = "import/awaits_promotion";
    /// Begins what stands last in a reason, and stays whatever becomes of the version.
    pub const OBSERVED: &str = "the gate only observed: ";
    /// Between this and what stands before it.
    const BETWEEN: &str = "; ";

    /// Whether it was judged, as far as its state says that: a candidate that was given up was not.
    #[must_use]
    pub fn has_verdict(&self) -> bool {
        !self.numbers.contains_key(VersionRow::NO_VERDICT)
    }

    /// What it averages, where it is an average of weights and no update made it.
    #[must_use]
    pub fn averaged(&self) -> Option<Averaged> {
        let number = |name: &str| self.numbers.get(name).copied();
        let (first, decay) = number(Averaged::FIRST).zip(number(Averaged::DECAY))?;
        Some(Averaged { first: PolicyVersion(first as u64), last: self.parent?, decay })
    }

    /// Why it was rejected, retired or rolled back, and nothing else.
    #[must_use]
    pub fn end_reason(&self) -> Option<&str> {
        VersionRow::parts_of(self.reason.as_deref()?).0
    }

    /// What the gate objected to, and let pass because it only observed.
    #[must_use]
    pub fn objections(&self) -> Option<&str> {
        VersionRow::parts_of(self.reason.as_deref()?).1
    }

    fn parts_of(reason: &str) -> (Option<&str>, Option<&str>) {
        let Some((end, objections)) = reason.split_once(VersionRow::OBSERVED) else {
            return (Some(reason), None);
        };
        (Some(end.trim_end_matches(VersionRow::BETWEEN)).filter(|end| !end.is_empty()), Some(objections))
    }

    /// The reason of a row after a step, which was taken because of `why`. What goes live has nothing to explain, but for what the
    /// gate objected to.
    pub(super) fn reason_after(before: Option<&str>, why: Option<&str>, to: VersionState) -> Option<String> {
        let (end, objections) = before.map_or((None, None), VersionRow::parts_of);
        let end = why.or(end.filter(|_| to != VersionState::Live)).map(str::to_string);
        let objections = objections.map(|objections| format!("{}{objections}", VersionRow::OBSERVED));
        let parts: Vec<String> = end.into_iter().chain(objections).collect();
        (!parts.is_empty()).then(|| parts.join(VersionRow::BETWEEN))
    }
}

/// The weights that a moving average is of: those of a version, and of its ancestors back to the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Averaged {
    /// The version that the average began with.
    pub first: PolicyVersion,
    /// The version that it was written beside.
    pub last: PolicyVersion,
    /// `ppo.ema_decay` of the update that made the last one.
    pub decay: f64,
}

impl Averaged {
    const FIRST: &str = "average/first_version";
    const DECAY: &str = "average/decay";

    /// For the row of the average, whose parent is the last version.
    #[must_use]
    pub fn numbers(&self) -> BTreeMap<String, f64> {
        [(Averaged::FIRST.to_owned(), self.first.0 as f64), (Averaged::DECAY.to_owned(), self.decay)].into()
    }
}

impl fmt::Display for Averaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Averaged { first, last, decay } = self;
        write!(f, "average of the weights of {first} to {last}, decay {decay}")
    }
}

/// What is written down of a candidate that passed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionReport {
    /// What the update and the gate measured.
    pub numbers: BTreeMap<String, f64>,
    /// What the gate objected to, in words that begin with [`VersionRow::OBSERVED`].
    pub remark: Option<String>,
}

impl From<BTreeMap<String, f64>> for VersionReport {
    fn from(numbers: BTreeMap<String, f64>) -> VersionReport {
        VersionReport { numbers, remark: None }
    }
}

/// One step in the life of versions; each is one transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum VersionChange {
    /// A new row.
    Register(VersionRow),
    /// Version 0 is nobody's again, unless anything refers to it already.
    Withdraw,
    /// The candidate goes live, the live one drains, and the update's rollouts are settled.
    Publish {
        /// The candidate.
        version: PolicyVersion,
        /// The end of the update's claim.
        settlement: Settlement,
        /// What the update and the gate found.
        report: VersionReport,
    },
    /// The candidate is refused, and the update's rollouts are settled.
    Reject {
        /// The candidate.
        version: PolicyVersion,
        /// Why.
        reason: String,
        /// The end of the update's claim.
        settlement: Settlement,
        /// What the update and the gate measured.
        numbers: BTreeMap<String, f64>,
    },
    /// The candidate is kept without going live: no update made it.
    Keep {
        /// The candidate.
        version: PolicyVersion,
        /// What the gate found.
        report: VersionReport,
    },
    /// A retained (or still draining) version goes live, the live one drains.
    Activate {
        /// The version.
        version: PolicyVersion,
        /// Compare-and-set: fails when another version is live.
        expected_live: Option<PolicyVersion>,
        /// Why the other one had to go.
        why: Option<String>,
    },
    /// What was to serve is damaged and is retired; a retained version goes live in its place.
    Replace {
        /// The version that goes live.
        version: PolicyVersion,
        /// Damaged versions, live or retained, and what is wrong with each.
        damaged: Vec<(PolicyVersion, String)>,
        /// Why the version goes live.
        why: String,
    },
    /// A plain step from one state to another.
    Move {
        /// The version.
        version: PolicyVersion,
        /// State it must be in.
        from: VersionState,
        /// State it gets.
        to: VersionState,
        /// Why, when it is refused or given up.
        reason: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::{VersionRow, VersionState};

    /// Goal: what the gate objected to outlives whatever becomes of a version, and is told apart from that. Method: the life of one
    /// that was taken back, brought back, and retired in the end.
    #[test]
    fn objections_stay_with_a_version_whatever_becomes_of_it() {
        let remark = format!("{}distinct pairs: 0.0054; length: 9", VersionRow::OBSERVED);
        let after = |before: &Option<String>, why, to| VersionRow::reason_after(before.as_deref(), why, to);
        let live = after(&None, Some(&remark), VersionState::Live);
        assert_eq!(live, Some(remark.clone()));
        let draining = after(&live, Some("rolled back: reward fell"), VersionState::Draining);
        assert_eq!(draining, Some(format!("rolled back: reward fell; {remark}")));
        let retained = after(&draining, None, VersionState::Retained);
        assert_eq!(retained, draining);
        let live = after(&retained, None, VersionState::Live);
        assert_eq!(live, Some(remark.clone()), "what is live again has nothing else to explain");
        let retained = after(&live, None, VersionState::Draining);
        let retired = after(&retained, Some("beyond ppo.keep_versions"), VersionState::Retired);
        assert_eq!(retired, Some(format!("beyond ppo.keep_versions; {remark}")));
        let parts = VersionRow::parts_of(retired.as_deref().unwrap());
        assert_eq!(parts, (Some("beyond ppo.keep_versions"), Some("distinct pairs: 0.0054; length: 9")));
        assert_eq!(VersionRow::parts_of(&remark), (None, parts.1));
        assert_eq!(VersionRow::parts_of("worse"), (Some("worse"), None));
        assert_eq!(after(&Some("worse".to_string()), None, VersionState::Live), None);
    }
}
