//! A whole log, row by row, a bounded batch in memory at a time.

use super::{LogReader, PageQuery};
use crate::rollout_log::{LogError, record::LoggedRollout};

/// Rows of one batch: memory stays bounded however long the log is.
const EXPORT_BATCH: usize = 256;

impl LogReader {
    /// Every row that matches, in log order. `limit` of the query is the batch's business and ignored.
    pub fn export(self, query: PageQuery) -> Export {
        let query = PageQuery { limit: EXPORT_BATCH, ..query };
        Export { reader: self, query, batch: Vec::new().into_iter(), done: false }
    }
}

/// Rows of an export, in log order. Ends after the first error.
#[derive(Debug)]
pub struct Export {
    reader: LogReader,
    query: PageQuery,
    batch: std::vec::IntoIter<LoggedRollout>,
    done: bool,
}

impl Iterator for Export {
    type Item = Result<LoggedRollout, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.batch.next() {
            return Some(Ok(row));
        }
        if self.done {
            return None;
        }
        match self.reader.page(&self.query) {
            Ok(rows) => {
                self.done = rows.len() < EXPORT_BATCH;
                self.query.after = rows.last().map(|row| row.seq).or(self.query.after);
                self.batch = rows.into_iter();
                self.batch.next().map(Ok)
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }
}
