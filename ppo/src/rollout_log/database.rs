//! The file that the log lies in: its name, and how it is opened.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;

use super::{LogError, schema};

/// In the header of a file in which nothing deleted was ever left: `hone`.
const CLEAN: i32 = 0x686f_6e65;

/// The database inside a data directory.
pub(super) fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("rollouts.sqlite")
}

/// Whether a data directory has a log.
#[must_use]
pub fn has_log(data_dir: &Path) -> bool {
    database(data_dir).is_file()
}

pub(super) fn open_for_writing(path: &Path) -> Result<Connection, LogError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // After a checkpoint the write-ahead log shrinks back to this, whatever a burst made of it.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // From the first row on: a row that grows moves, and what it leaves behind would outlive it when its user is forgotten.
    connection.pragma_update(None, "secure_delete", true)?;
    let is_new = schema::number(&connection)? == 0;
    schema::migrate(&mut connection)?;
    if is_new {
        connection.pragma_update(None, "application_id", CLEAN)?;
    }
    Ok(connection)
}

/// Leaves nothing of what was deleted in the file or beside it. Outside of any transaction; a reader that is in the middle of
/// something keeps some of it in the write-ahead log until the next commit. A file from before deleted bytes were overwritten
/// is written anew once.
pub(super) fn leave_no_copy(connection: &Connection) -> Result<(), LogError> {
    let found: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if found != CLEAN {
        connection.execute_batch("VACUUM")?;
        connection.pragma_update(None, "application_id", CLEAN)?;
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}
