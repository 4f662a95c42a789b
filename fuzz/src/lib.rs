//! What the fuzz targets share. What each does with an input stands beside the code that it tests, in a module `fuzzing` with
//! `seeds` and `target`, so that private parsers are reached; that code exists under `cfg(fuzzing)` and in tests only.
//!
//! `make fuzz` runs all of them on a stable compiler; `cargo fuzz run gguf` works too (`-s none` where the compiler is stable).

use std::path::{Path, PathBuf};

#[doc(hidden)]
pub use libfuzzer_sys;

/// The body of a target: libFuzzer's, or a `main` that says how to run it where the compiler was not told to watch branches.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! fuzz {
    ($($module:ident)::+) => {
        use $crate::libfuzzer_sys;

        libfuzzer_sys::fuzz_target!(
            init: $crate::plant(&$($module)::+::seeds()),
            |input: &[u8]| {
                $($module)::+::target(input);
            }
        );
    };
}

/// The body of a target: libFuzzer's, or a `main` that says how to run it where the compiler was not told to watch branches.
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! fuzz {
    ($($module:ident)::+) => {
        fn main() {
            eprintln!("built without instrumentation: run `make fuzz`, or `cargo fuzz run -s none TARGET`");
            std::process::exit(2);
        }
    };
}

/// Writes the seeds into the corpus, which is the first folder of the command line; without one, nothing is kept.
///
/// # Panics
/// When the folder cannot be written to.
pub fn plant(seeds: &[Vec<u8>]) {
    let corpus: Option<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).find(|path| path.is_dir());
    for (n, seed) in seeds.iter().enumerate() {
        if let Some(corpus) = &corpus {
            write(&corpus.join(format!("seed-{n}")), seed);
        }
    }
}

fn write(path: &Path, seed: &[u8]) {
    std::fs::write(path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
