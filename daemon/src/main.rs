//! `honed`: see `honed --help`.

fn main() {
    policy::threads::prepare_process();
    policy::threads::end_process(daemon::cli::main())
}
