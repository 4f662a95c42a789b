//! A look at the files that a work will leave, before it begins.

use std::{
    fs::{File, OpenOptions},
    path::Path,
};

/// Finds out before the work whether a file can be written after it. One that is there stays as it is until then.
///
/// # Errors
/// What the system says.
pub(crate) fn check_writable(path: &Path) -> std::io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() || found.is_dir() => OpenOptions::new().append(true).open(path).map(drop),
        // To open a pipe would be to end it.
        Ok(_) => Ok(()),
        // A link to nothing is not ours to remove.
        Err(_) if path.is_symlink() => Ok(()),
        Err(_) => File::create_new(path).and_then(|_| std::fs::remove_file(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::check_writable;

    #[test]
    fn a_look_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("old"), "x").expect("written");
        check_writable(&at("old")).expect("a file");
        check_writable(&at("new")).expect("a free name");
        assert_eq!((std::fs::read_to_string(at("old")).expect("there"), at("new").exists()), ("x".to_owned(), false));
        for bad in [at("absent/new"), folder.path().to_owned()] {
            check_writable(&bad).expect_err("no file can be there");
        }
    }
}
