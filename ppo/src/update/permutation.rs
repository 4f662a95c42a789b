//! The order of episodes in an epoch.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// A permutation of `0..n`, a pure function of its arguments: a round that is repeated after a crash sees the same order,
/// whatever ran before it.
#[must_use]
pub fn permutation(seed: u64, update: u64, epoch: u32, n: usize) -> Vec<usize> {
    shuffled(seed, update, epoch, *b"ppo/mini", n)
}

/// A permutation of `0..n` whose stream of random numbers is named by `purpose`.
pub(super) fn shuffled(seed: u64, turn: u64, part: u32, purpose: [u8; 8], n: usize) -> Vec<usize> {
    let mut key = [0_u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&turn.to_le_bytes());
    key[16..20].copy_from_slice(&part.to_le_bytes());
    key[24..].copy_from_slice(&purpose);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::from_seed(key));
    order
}

/// Cuts an order into minibatches whose sizes differ by at most one and are as near to `size` as that allows: a remainder
/// of one episode would otherwise get an optimiser step of its own.
#[must_use]
pub fn minibatches(order: &[usize], size: usize) -> Vec<&[usize]> {
    let n_parts = ((order.len() as f64 / size.max(1) as f64).round() as usize).max(1);
    (0..n_parts)
        .map(|part| &order[order.len() * part / n_parts..order.len() * (part + 1) / n_parts])
        .filter(|part| !part.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{minibatches, permutation};

    #[test]
    fn every_episode_comes_once_and_the_order_depends_on_seed_update_and_epoch() {
        let order = permutation(1, 2, 3, 50);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(order, permutation(1, 2, 3, 50));
        for other in [permutation(0, 2, 3, 50), permutation(1, 0, 3, 50), permutation(1, 2, 0, 50)] {
            assert_ne!(order, other);
        }
    }

    #[test]
    fn minibatches_cover_the_order_evenly() {
        let order: Vec<usize> = (0..127).collect();
        let parts = minibatches(&order, 32);
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), vec![31, 32, 32, 32]);
        assert_eq!(parts.concat(), order);
        assert_eq!(minibatches(&order[..33], 32).len(), 1, "a remainder of one joins the others");
        assert!(minibatches(&[], 32).is_empty());
    }
}
