//! Bytes in columns that this code never wrote: a damaged page that SQLite does not notice, a foreign hand, a newer honed.

use super::{
    super::blob::{self, ResponseColumns},
    *,
};

#[path = "../../../../tests/mutant.rs"]
mod mutant;

/// Goal: no bytes in a column end the process or cost more memory than they take, and what is read is what would be written.
/// Method: mutants of every kind of column through their parsers, and back.
#[test]
fn fuzz_log_rows() {
    let sampling = SamplingParams {
        logit_bias: vec![(TokenId(3), -1.5), (TokenId(9), 2.0)],
        stop: vec!["\n\n".to_string(), "é".to_string()],
        stop_token_ids: vec![TokenId(9)],
        ..SamplingParams::default()
    };
    let columns = ResponseColumns::of(&rollout(5, 0).response);
    let seeds = [
        blob::sampling(&sampling),
        blob::sampling(&SamplingParams::default()),
        columns.ids,
        columns.log_probs,
        blob::versions(&[PolicyVersion(1), PolicyVersion(u64::MAX)]),
    ];
    mutant::fuzz("log_rows", &seeds, &[], 50_000, |bytes| {
        let params = match blob::parse_sampling(bytes) {
            Ok(params) => {
                let again = blob::parse_sampling(&blob::sampling(&params)).unwrap();
                // NaN is not equal to itself, so the form is compared.
                assert_eq!(format!("{again:?}"), format!("{params:?}"));
                format!("sampling with {} stops", if params.stop.is_empty() { "no" } else { "some" })
            }
            Err(error) => error,
        };
        let ids = blob::parse_token_ids(bytes).map(|ids| {
            assert_eq!(blob::token_ids(ids.iter().copied()), bytes);
            ids.len()
        });
        let versions = blob::parse_versions(bytes).map(|versions| {
            assert_eq!(blob::versions(&versions), bytes);
            versions.len()
        });
        let half = bytes.len() / 2;
        let columns = ResponseColumns {
            ids: bytes[..half].to_vec(),
            log_probs: bytes[half..].to_vec(),
            behavior: bytes[half..].to_vec(),
            log_kept_mass: None,
        };
        let response = columns.parse().map(|response| response.len() * 4 == half);
        format!("{params} {ids:?} {versions:?} {response:?}")
    });
}
