//! What a log puts in order when it is opened, in one transaction: whoever claimed is gone, and who is quarantined may be others
//! than before.

use rusqlite::Connection;

use super::{
    error::LogError,
    quarantine::{self, Quarantine},
    transaction::{begin, commit},
    transition,
};

/// Returns how many rows were dropped because their users are quarantined.
pub(super) fn put_in_order(connection: &mut Connection, quarantine: &Quarantine) -> Result<u64, LogError> {
    let transaction = begin(connection)?;
    let n_returned = transition::release_all(&transaction)?;
    let n_quarantined = quarantine::apply(&transaction, quarantine)?;
    commit(transaction, "open.commit")?;
    if n_returned > 0 {
        tracing::warn!(n_returned, "returned the claims of an update that did not finish");
    }
    if n_quarantined > 0 {
        tracing::warn!(n_quarantined, "dropped what quarantined users had brought");
    }
    Ok(n_quarantined)
}
