//! Who only measures.
//!
//! A policy that learns to please the reward model on the traffic that it trains on need not be better anywhere else. So a
//! share of the users, and of the prompts that come without one, never trains; their scores show whether what is learnt
//! is more than that traffic. The choice is a hash, so it is the same in every round, process and data folder.

use policy::Rollout;

/// Buckets that the hash is cut into.
const N_BUCKETS: u64 = 10_000;

/// Whether this rollout's user (or prompt, where no user is named) belongs to the held-out share.
#[must_use]
pub fn is_held_out(rollout: &Rollout, share: f64) -> bool {
    let hash = match &rollout.user {
        Some(user) => fnv1a(user.bytes()),
        None => fnv1a(rollout.prompt.iter().flat_map(|token| token.0.to_le_bytes())),
    };
    // The low bits of short inputs hardly mix; the high ones do after the fold.
    ((hash ^ (hash >> 32)) % N_BUCKETS) as f64 + 0.5 < share * N_BUCKETS as f64
}

/// FNV-1a, 64 bits: a hash that stays the same, which the standard library's does not promise.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use policy::TokenId;

    use super::is_held_out;
    use crate::test_world::{World, share_of};

    #[test]
    fn the_share_is_kept_and_a_user_is_on_one_side_for_ever() {
        let drawn = World::new(1).rollouts(1, share_of(TokenId(3))).remove(0);
        let of = |user: Option<String>, prompt: u32, share: f64| {
            let (mut rollout, _) = drawn.clone().into_parts();
            (rollout.user, rollout.prompt) = (user, vec![TokenId(prompt)]);
            is_held_out(&rollout, share)
        };
        let n = |f: &dyn Fn(u32) -> bool| (0..4000).filter(|i| f(*i)).count();
        let (users, prompts) = (n(&|i| of(Some(format!("user-{i}")), 1, 0.1)), n(&|i| of(None, i, 0.1)));
        assert!((300..500).contains(&users) && (300..500).contains(&prompts), "{users} users, {prompts} prompts");
        assert!((0..100).all(|i| !of(None, i, 0.0)));
        for i in 0..100 {
            let user = Some(format!("user-{i}"));
            assert_eq!(of(user.clone(), 1, 0.1), of(user, 2, 0.1), "whatever the prompt");
        }
    }
}
