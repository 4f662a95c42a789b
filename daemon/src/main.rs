//! `honed`: see `honed --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    policy::threads::prepare_process();
    daemon::cli::main()
}
