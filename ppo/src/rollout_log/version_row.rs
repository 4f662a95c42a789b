//! A version of the policy as a row, and the steps of its life.

use std::{collections::BTreeMap, path::PathBuf};

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
    /// Why it was rejected, retired or rolled back.
    pub reason: Option<String>,
    /// The gate's report and the update's numbers, by metric name.
    pub numbers: BTreeMap<String, f64>,
}

impl VersionRow {
    /// 1 in the numbers of a candidate that was given up before there was a verdict on its weights.
    pub const NO_VERDICT: &str = "gate/no_verdict";
    /// 1 in the numbers of a file that passed and is to go live, until it has.
    pub const AWAITS_PROMOTION: &str = "import/awaits_promotion";

    /// Whether it was judged, as far as its state says that: a candidate that was given up was not.
    #[must_use]
    pub fn has_verdict(&self) -> bool {
        !self.numbers.contains_key(VersionRow::NO_VERDICT)
    }
}

/// One step in the life of versions; each is one transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum VersionChange {
    /// A new row.
    Register(VersionRow),
    /// The candidate goes live, the live one drains, and the update's rollouts are settled.
    Publish {
        /// The candidate.
        version: PolicyVersion,
        /// The end of the update's claim.
        settlement: Settlement,
        /// What the update and the gate measured.
        numbers: BTreeMap<String, f64>,
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
    /// The candidate is kept without going live: it was not made here.
    Keep {
        /// The candidate.
        version: PolicyVersion,
        /// What the gate measured.
        numbers: BTreeMap<String, f64>,
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
