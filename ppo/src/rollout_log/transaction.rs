//! Transactions of the log, each with a failpoint on either side of its commit.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::LogError;

/// Begins one that will write.
pub(super) fn begin(connection: &mut Connection) -> Result<Transaction<'_>, LogError> {
    failpoint("log.begin")?;
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// Commits it; `point` is the failpoint right before, which tells the kinds of transactions apart.
pub(super) fn commit(transaction: Transaction<'_>, point: &'static str) -> Result<(), LogError> {
    failpoint(point)?;
    transaction.commit()?;
    policy::failpoint::passed("log.committed");
    Ok(())
}

/// An error of a failpoint is one of the disk.
pub(super) fn failpoint(name: &'static str) -> Result<(), LogError> {
    policy::failpoint::reached(name).map_err(|error| LogError::Commit(error.to_string()))
}
