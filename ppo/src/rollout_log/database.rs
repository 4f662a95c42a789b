//! The file that the log lies in: its name, and how it is opened.

use std::{
    ffi::CString,
    fs::DirBuilder,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{LogError, schema, transaction::failpoint};

/// In the header of a file in which nothing deleted was ever left: `hone`.
const CLEAN: i32 = 0x686f_6e65;
/// How long a connection waits for another's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The database inside a data directory.
pub(super) fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("rollouts.sqlite")
}

/// Whether a data directory has a log.
#[must_use]
pub fn has_log(data_dir: &Path) -> bool {
    database(data_dir).is_file()
}

/// Makes the data directory, for its owner only, unless it is there.
pub(super) fn make_folder(data_dir: &Path) -> Result<(), LogError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|error| {
        let reason = match () {
            () if data_dir.exists() => "it is no folder".to_owned(),
            () if data_dir.is_symlink() => "it is a link that leads nowhere".to_owned(),
            () => error.to_string(),
        };
        LogError::NoFolder { path: data_dir.to_path_buf(), reason }
    })
}

/// A connection that changes nothing. It asks for a file that it may write, and SQLite falls back to one that it may read: the
/// last to close a log takes the write-ahead log in, and a reader that could not would leave it lying there.
///
/// A folder that cannot be written has no room for the write-ahead log's index. There the file is read as it stands, which is the
/// whole log as long as nothing waits in the write-ahead log, and nobody changes it.
pub(super) fn open_for_reading(data_dir: &Path) -> Result<Connection, LogError> {
    let path = database(data_dir);
    let error = match connect_for_reading(&path, OpenFlags::SQLITE_OPEN_READ_WRITE) {
        Err(error) if is_refused(&error) && !may_write(data_dir) => error,
        opened => return Ok(opened?),
    };
    if std::fs::metadata(data_dir.join("rollouts.sqlite-wal")).is_ok_and(|wal| wal.len() > 0) {
        return Err(LogError::NeedsWriting { dir: data_dir.to_path_buf() });
    }
    let Ok(path) = path.canonicalize() else { return Err(error.into()) };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Ok(connect_for_reading(Path::new(&as_it_stands(&path)), flags)?)
}

fn connect_for_reading(name: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.busy_timeout(PATIENCE)?;
    // The first look at the file: whether it can be read is not known before.
    connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
    Ok(connection)
}

fn is_refused(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// Whether this process may make files there; nobody may on a medium that is mounted for reading.
fn may_write(folder: &Path) -> bool {
    let Ok(name) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: the name ends with a zero byte and lives for the whole call.
    unsafe { libc::access(name.as_ptr(), libc::W_OK) == 0 }
}

/// SQLite's name for a file that nobody changes, so that it takes no lock and looks for nothing beside it.
fn as_it_stands(path: &Path) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
    let escaped = path.as_os_str().as_bytes().iter().map(|byte| match is_plain(byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    format!("file:{}?immutable=1", escaped.collect::<String>())
}

pub(super) fn open_for_writing(path: &Path) -> Result<Connection, LogError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
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
        failpoint("log.vacuum")?;
        connection.execute_batch("VACUUM")?;
        connection.pragma_update(None, "application_id", CLEAN)?;
    }
    failpoint("log.checkpoint")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a log that nobody can write to can be read, whatever its folder is called. Method: names that mean something in a URI,
    /// opened as where the folder cannot be written.
    #[test]
    fn a_log_is_read_as_it_stands_whatever_its_folder_is_called() {
        for name in ["plain", "a b", "50%", "what?immutable=0", "#1", "zo\u{eb}", "a&b=c"] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join(name);
            make_folder(&dir).unwrap();
            drop(open_for_writing(&database(&dir)).unwrap());
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let name_of = as_it_stands(&database(&dir).canonicalize().unwrap());
            let connection = connect_for_reading(Path::new(&name_of), flags).unwrap();
            assert_eq!(schema::number(&connection).unwrap(), schema::CURRENT, "{name}");
            drop(connection);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "{name}: nothing appears beside it");
        }
    }

    #[test]
    fn what_is_no_folder_is_named_with_its_knob() {
        let root = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| root.path().join(name));
        std::fs::write(&file, b"").unwrap();
        std::os::unix::fs::symlink(root.path().join("nowhere"), &link).unwrap();
        for (path, what) in
            [(&file, "it is no folder"), (&link, "leads nowhere"), (&file.join("below"), "ot a directory")]
        {
            let said = make_folder(path).unwrap_err().to_string();
            assert!(said.contains("daemon.data_dir") && said.contains(what), "{said}");
            assert!(said.contains(path.to_str().unwrap()), "{said}");
        }
    }
}
