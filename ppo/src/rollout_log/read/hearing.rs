//! Whose words count in what is read of a service, and how much.
//!
//! What is read here decides which version everybody is answered by, and whether learning goes on. So users in quarantine are
//! not heard, and of the one user who has brought most no more counts than a quarter of what is looked at, or than the next one
//! brought, as long as others have brought anything. Where there is nobody else, that user is whom the version serves, and all
//! counts. Whoever gives no name cannot be told from others: each word without a name is taken for somebody's own.

use std::collections::{BTreeMap, BTreeSet};

/// One part in this many of a sample is one named user's at most, as long as others have brought something: of what the watch
/// hears, and of what the gate asks.
pub(crate) const USER_PART: usize = 4;

/// Something, and who brought it: whoever asked, and those whose judgement is in it.
pub(super) struct Brought<T> {
    /// Those of them who gave a name.
    pub(super) users: BTreeSet<String>,
    pub(super) what: T,
}

fn counts<T>(all: &[Brought<T>]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for user in all.iter().flat_map(|brought| &brought.users) {
        *counts.entry(user.as_str()).or_default() += 1;
    }
    counts
}

/// Whether one user has brought so much of this that it is worth looking further for what others have.
pub(super) fn is_one_loud<T>(all: &[Brought<T>], limit: usize) -> bool {
    counts(all).into_values().any(|n| n > limit.div_ceil(USER_PART))
}

/// At most `limit` of them, in their order.
pub(super) fn heard<T>(all: Vec<Brought<T>>, limit: usize) -> Vec<T> {
    let n_max = one_users_part(&all, limit);
    let mut n_by_user: BTreeMap<String, usize> = BTreeMap::new();
    let mut heard = Vec::new();
    for Brought { users, what } in all {
        let has_room = |user: &String| n_by_user.get(user).is_none_or(|n| *n < n_max);
        if heard.len() < limit && users.iter().all(has_room) {
            users.into_iter().for_each(|user| *n_by_user.entry(user).or_default() += 1);
            heard.push(what);
        }
    }
    heard
}

/// How much of what one user has brought counts.
fn one_users_part<T>(all: &[Brought<T>], limit: usize) -> usize {
    let mut counts: Vec<usize> = counts(all).into_values().collect();
    counts.sort_unstable();
    let n_of_loudest = counts.pop().unwrap_or(0);
    let n_of_others = all.len() - n_of_loudest;
    if n_of_others == 0 {
        return limit;
    }
    // A third of what the others have is a quarter of all.
    let part = n_of_others.div_ceil(USER_PART - 1).min(limit.div_ceil(USER_PART));
    part.max(counts.pop().unwrap_or(0).min(limit / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many of each, one user after the other; without a name where it is empty.
    fn sample(parts: &[(&'static str, usize)], limit: usize) -> Vec<(&'static str, usize)> {
        let named = |user: &str| Some(user.to_owned()).filter(|user| !user.is_empty()).into_iter().collect();
        let all = parts.iter().flat_map(|(user, n)| (0..*n).map(|_| Brought { users: named(user), what: *user }));
        let heard = heard(all.collect(), limit);
        let n_of = |user: &str| heard.iter().filter(|other| **other == user).count();
        parts.iter().map(|(user, _)| (*user, n_of(user))).collect()
    }

    /// Goal: nobody decides alone while there are others, and nobody is left out for being one of few. Method: one who has brought
    /// almost all, beside many, beside few and beside one; two alike; one alone; and words without a name.
    #[test]
    fn one_user_brings_a_quarter_while_others_have_brought_anything() {
        assert_eq!(sample(&[("loud", 200), ("", 200)], 64), [("loud", 16), ("", 48)]);
        assert_eq!(sample(&[("loud", 200), ("", 30)], 64), [("loud", 10), ("", 30)]);
        assert_eq!(sample(&[("loud", 40), ("ann", 1), ("bob", 1)], 64), [("loud", 1), ("ann", 1), ("bob", 1)]);
        assert_eq!(sample(&[("ann", 30), ("bob", 30)], 64), [("ann", 30), ("bob", 30)]);
        assert_eq!(sample(&[("ann", 90), ("bob", 90)], 64), [("ann", 32), ("bob", 32)]);
        assert_eq!(sample(&[("ann", 90), ("bob", 20)], 64), [("ann", 20), ("bob", 20)]);
        assert_eq!(sample(&[("ann", 90)], 64), [("ann", 64)]);
        assert_eq!(sample(&[("", 90)], 64), [("", 64)]);
        assert_eq!(sample(&[("ann", 10), ("", 54)], 64), [("ann", 10), ("", 54)]);
    }
}
