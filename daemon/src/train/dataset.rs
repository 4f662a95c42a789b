//! Data files: one JSON object a line, read whole before anything else happens, so that a mistake on the last line does
//! not surface after an hour of training.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use super::error::{Result, TrainError};
use crate::http::wire::{dataset::Record, fields::FieldError};

/// Bytes of one line at most: a record is a few pages, and a file without line ends should not fill the memory.
const LINE_MAX: u64 = 64 << 20;

/// A record, and where it stands in its file.
#[derive(Clone, Debug)]
pub(super) struct Line<T> {
    /// Counted from 1.
    pub(super) number: usize,
    /// What it says.
    pub(super) record: Record<T>,
}

/// Reads every line of a file; blank ones are skipped.
pub(super) fn read<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> std::result::Result<Record<T>, FieldError>,
) -> Result<Vec<Line<T>>> {
    let file = File::open(path).map_err(TrainError::io(path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let n_bytes = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(TrainError::io(path))?;
        if n_bytes == 0 {
            break;
        }
        if n_bytes as u64 == LINE_MAX {
            return Err(fault(path, number, format!("a line must be shorter than {LINE_MAX} bytes")));
        }
        let json = bytes.trim_ascii();
        if json.is_empty() {
            continue;
        }
        // A byte order mark belongs to the file, not to its first record.
        let json = if number == 1 { json.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(json) } else { json };
        // The parser sees one line, the reader of its message a whole file.
        let record = parse(json)
            .map_err(|error| fault(path, number, error.message.replace(" at line 1 column ", " at column ")))?;
        lines.push(Line { number, record });
    }
    match lines.is_empty() {
        true => Err(TrainError::Data { path: path.to_owned(), reason: "it holds no records".to_owned() }),
        false => Ok(lines),
    }
}

/// An error at a line.
pub(super) fn fault(path: &Path, line: usize, rule: String) -> TrainError {
    TrainError::Line { path: path.to_owned(), line, rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::dataset::Example;

    fn read_text(text: &[u8]) -> Result<Vec<Line<Example>>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, text).expect("written");
        read(&path, Record::example)
    }

    #[test]
    fn lines_are_counted_from_one_and_blank_ones_are_skipped() {
        let lines = read_text(b"\xEF\xBB\xBF{\"text\":\"a\"}\r\n\n  {\"text\":\"b\"}").expect("two records");
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_field() {
        let message = |text: &[u8]| read_text(text).expect_err("refused").to_string();
        let wrong = message(b"{\"text\":\"a\"}\n{\"text\":7}\n");
        assert!(wrong.ends_with("data.jsonl, line 2: `text` must be a string, not a number"), "{wrong}");
        let broken = message(b"{\"text\":\"a\"}\n{\"text\"\n");
        assert!(broken.contains("line 2: the line is not valid JSON") && broken.contains("at column"), "{broken}");
        assert!(message(b"\n\n").contains("holds no records"));
    }
}
