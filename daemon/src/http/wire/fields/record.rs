//! For tests: which fields a parser looks at, whether they are there or not.

use std::{cell::RefCell, collections::BTreeSet};

thread_local! {
    static NOTES: RefCell<Option<BTreeSet<String>>> = const { RefCell::new(None) };
}

/// Runs this and returns the names that parsers looked at meanwhile on this thread, `messages[].role` for any message's.
pub(crate) fn during<T>(run: impl FnOnce() -> T) -> (T, BTreeSet<String>) {
    NOTES.set(Some(BTreeSet::new()));
    let out = run();
    (out, NOTES.take().unwrap_or_default())
}

pub(super) fn note(path: &str) {
    NOTES.with_borrow_mut(|notes| {
        if let Some(notes) = notes {
            let mut parts = path.split('[');
            let mut name = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                name.push_str("[]");
                name.push_str(part.split_once(']').map_or("", |(_, rest)| rest));
            }
            notes.insert(name);
        }
    });
}
