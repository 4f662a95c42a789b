//! Users whose exchanges never train and whose words do not count.
//!
//! Whoever writes prompts and judges the answers trains the model; a handful of users who mean it harm are enough to teach it
//! something (poisoning). `ppo.user_share_max` bounds what one user can do to a round; this list takes those who were caught
//! out altogether. Their exchanges are answered and logged like everybody's, and dropped with a reason; their feedback is kept
//! for whoever investigates, and heard by nobody.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::{error::LogError, judges, state::DropReason};

/// Names of such users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine(BTreeSet<String>);

impl Quarantine {
    /// One name a line; empty lines and lines that begin with `#` do not count.
    #[must_use]
    pub fn parse(text: &str) -> Quarantine {
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Quarantine(names.map(str::to_owned).collect())
    }

    /// Whether this user is one of them; whoever gives no name cannot be told from others.
    #[must_use]
    pub fn holds(&self, user: Option<&str>) -> bool {
        user.is_some_and(|user| self.0.contains(user))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// At open: what they brought before they were caught leaves the queue, and what was judged by their words is judged again. So it
/// is with what an update holds that a process died in, which therefore misses rows and is not repeated. From then on nothing of
/// theirs can be claimed or given back: what they bring is dropped as it comes. Returns how many rows were dropped.
pub(super) fn apply(connection: &Connection, quarantine: &Quarantine) -> Result<u64, LogError> {
    let mut n_dropped = 0;
    for user in &quarantine.0 {
        n_dropped += connection.execute(
            "UPDATE rollouts SET state = 'dropped', reason = ?2
             WHERE user = ?1 AND state IN ('generated', 'scored', 'claimed')",
            params![user, DropReason::Quarantined.as_str()],
        )?;
        judges::rejudge_without(connection, user)?;
        judges::unclaim_without(connection, user)?;
    }
    Ok(n_dropped as u64)
}
