//! `honed`: see `honed --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::cli::main()
}
