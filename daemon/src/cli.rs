//! The command line. Answers go to standard output, everything else to standard error; exit codes are 0, 1 (it failed) and
//! 2 (it was called wrongly).

mod audit;
mod clock;
mod config_args;
mod config_command;
mod doctor;
mod holder;
mod policies;
pub(crate) mod progress;
mod replay;
mod rollouts;
pub(crate) mod say;
mod serve;
mod why;

use std::{error::Error, io};

use clap::{Parser, Subcommand};
use config::ConfigError;

pub use self::config_args::ConfigArgs;
pub(crate) use self::config_args::{ALONE, knob_path, own_daemon};
use crate::{bench, demo, eval, train};

/// What every command returns.
pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Below the help.
const EXIT: &str = "Exit: 0 done, 1 failed, 2 called wrongly.";

/// A call that could not be carried out whatever there were on this machine: arguments that contradict each other, say.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

/// Serve a language model and train it with PPO while it serves.
#[derive(Parser)]
#[command(name = "honed", version, subcommand_required = true, arg_required_else_help = true, after_help = EXIT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve over HTTP; without arguments the built-in model, on 127.0.0.1:8080.
    Serve(ConfigArgs),
    /// Watch a small model get better under live traffic; ends with a table and report.html.
    Demo(demo::Args),
    /// Train offline: a supervised model, a reward model, a policy.
    #[command(subcommand)]
    Train(train::Command),
    /// Look at the rollout log, also beside a running daemon, or have it forget a user.
    #[command(subcommand)]
    Rollouts(rollouts::Command),
    /// Look at the versions of the policy, activate one, remove old ones.
    #[command(subcommand)]
    Policies(policies::Command),
    /// List who did what: activations, imports, pauses, removals; also beside a running daemon.
    Audit(audit::AuditArgs),
    /// Tell in plain words what made a version, and what became of it.
    Why(why::WhyArgs),
    /// Compute an update of the learner again, and compare it with its record bit for bit.
    Replay(replay::ReplayArgs),
    /// Measure; one line of JSON each.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Evaluate the learner itself.
    #[command(subcommand)]
    Eval(eval::Command),
    /// Check or print the configuration.
    #[command(subcommand)]
    Config(config_command::Command),
    /// Say what this machine and this installation can do, and whether the model answers.
    Doctor(ConfigArgs),
}

/// Runs the command that the process was called with, and gives its exit code.
pub fn main() -> u8 {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args).map_err(Into::into),
        Command::Train(command) => train::run(command),
        Command::Rollouts(command) => rollouts::run(command),
        Command::Policies(command) => policies::run(command),
        Command::Audit(args) => audit::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Bench(command) => bench::run(command),
        Command::Eval(command) => eval::run(command),
        Command::Config(command) => config_command::run(command),
        Command::Doctor(args) => doctor::run(&args),
    };
    match outcome {
        Ok(()) => 0,
        // `honed rollouts export | head` ends the pipe, and nothing is wrong.
        Err(error) if is_broken_pipe(error.as_ref()) => 0,
        Err(error) => {
            say::tell(format_args!("honed: {error}"));
            let mut said = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                // Many messages end with their cause already.
                let text = error.to_string();
                if !said.contains(&text) {
                    say::tell(format_args!("  because {text}"));
                    said = text;
                }
                cause = error.source();
            }
            if is_misuse(error.as_ref()) { 2 } else { 1 }
        }
    }
}

/// Whether it is the caller's, itself or as the cause of what a command made of it.
fn is_misuse(error: &(dyn Error + 'static)) -> bool {
    if error.is::<ConfigError>() || error.is::<Misuse>() {
        return true;
    }
    error.source().is_some_and(is_misuse)
}

fn is_broken_pipe(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::DemoError, train::TrainError};

    /// Goal: 2 says that the call was wrong, whichever command was called. Method: a knob that there is not, as each family of
    /// commands hands it up; and what is nobody's fault.
    #[test]
    fn a_wrong_call_is_known_through_what_a_command_makes_of_it() {
        let wrong = || {
            let sets = vec!["ppo.nonsense=1".to_owned()];
            config::Config::load(config::Sources { file: None, env: Vec::new(), sets }).expect_err("no such knob")
        };
        let misused: [Box<dyn Error + Send + Sync>; 5] = [
            wrong().into(),
            TrainError::from(wrong()).into(),
            TrainError::Settings(Misuse("these two".to_owned())).into(),
            DemoError::from(wrong()).into(),
            Misuse("these two".to_owned()).into(),
        ];
        for error in misused {
            assert!(is_misuse(error.as_ref()), "{error}");
        }
        let failed: [Box<dyn Error + Send + Sync>; 3] =
            ["it failed".into(), TrainError::Halted("a guard".to_owned()).into(), io::Error::other("disk").into()];
        for error in failed {
            assert!(!is_misuse(error.as_ref()), "{error}");
        }
    }

    #[test]
    fn a_closed_pipe_is_a_good_end_and_another_error_is_not() {
        let outcome = |kind: io::ErrorKind| Box::<dyn Error + Send + Sync>::from(io::Error::from(kind));
        assert!(is_broken_pipe(outcome(io::ErrorKind::BrokenPipe).as_ref()));
        assert!(!is_broken_pipe(outcome(io::ErrorKind::StorageFull).as_ref()));
    }
}
