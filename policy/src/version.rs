//! Versions of the policy.

use std::fmt;

/// Which weights produced something. Version 0 is the frozen SFT snapshot; each publication takes the next number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyVersion(pub u64);

impl PolicyVersion {
    /// The frozen SFT snapshot: the reference of the KL penalty, never deleted.
    pub const SFT: PolicyVersion = PolicyVersion(0);

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> PolicyVersion {
        PolicyVersion(self.0 + 1)
    }
}

impl fmt::Display for PolicyVersion {
    /// As clients see it: `policy@3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy@{}", self.0)
    }
}
