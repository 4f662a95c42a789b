//! What the fuzzer of the log's columns does with an input; compiled for tests and under `cfg(fuzzing)` only.
//!
//! Bytes that this code never wrote come from a damaged page that SQLite does not notice, a foreign hand, or a newer honed.

use policy::{LogProb, PolicyVersion, SampledToken, SamplingParams, TokenId};

use super::blob::{self, ResponseColumns};

/// Inputs to begin with: every kind of column.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let sampling = SamplingParams {
        logit_bias: vec![(TokenId(3), -1.5), (TokenId(9), 2.0)],
        stop: vec!["\n\n".to_owned(), "é".to_owned()],
        stop_token_ids: vec![TokenId(9)],
        constrained: true,
        ..SamplingParams::default()
    };
    let token =
        |n: u32| SampledToken { id: TokenId(n), log_prob: LogProb(-0.5), behavior: LogProb(-0.25), log_kept_mass: 0.0 };
    let columns = ResponseColumns::of(&[token(5), token(6), token(7)]);
    vec![
        blob::sampling(&sampling),
        blob::sampling(&SamplingParams::default()),
        columns.ids,
        columns.log_probs,
        blob::versions(&[PolicyVersion(1), PolicyVersion(u64::MAX)]),
    ]
}

/// Gives the input to the parser of every column; how many of the four read it.
///
/// # Panics
/// When what is read is not what would be written, or when a refusal says nothing.
pub fn target(input: &[u8]) -> usize {
    let sampling = admitted(blob::parse_sampling(input));
    if let Some(params) = &sampling {
        let again = blob::parse_sampling(&blob::sampling(params)).expect("what we write we can read");
        // NaN is not equal to itself, so the form is compared.
        assert_eq!(format!("{again:?}"), format!("{params:?}"));
    }
    let tokens = admitted(blob::parse_token_ids(input));
    if let Some(tokens) = &tokens {
        assert_eq!(blob::token_ids(tokens.iter().copied()), input);
    }
    let versions = admitted(blob::parse_versions(input));
    if let Some(versions) = &versions {
        assert_eq!(blob::versions(versions), input);
    }
    let (ids, numbers) = input.split_at(input.len() / 2);
    let (log_probs, behavior) = (numbers.to_vec(), numbers.to_vec());
    let columns = ResponseColumns { ids: ids.to_vec(), log_probs, behavior, log_kept_mass: None };
    let response = admitted(columns.parse());
    if let Some(response) = &response {
        assert_eq!(response.len() * 4, ids.len());
    }
    [sampling.is_some(), tokens.is_some(), versions.is_some(), response.is_some()].iter().filter(|read| **read).count()
}

fn admitted<T>(result: Result<T, String>) -> Option<T> {
    result.map_err(|error| assert!(!error.is_empty())).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_is_read_by_some_parser() {
        let read: Vec<usize> = super::seeds().iter().map(|seed| super::target(seed)).collect();
        assert!(read.iter().all(|n| *n > 0), "{read:?}");
    }
}
