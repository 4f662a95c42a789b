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
mod serve;
mod why;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};
use config::ConfigError;

pub use self::config_args::ConfigArgs;
use crate::{bench, demo, eval, train};

/// What every command returns.
pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Serve a language model and train it with PPO while it serves.
#[derive(Parser)]
#[command(name = "honed", version, subcommand_required = true, arg_required_else_help = true)]
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

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
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
        Ok(()) => ExitCode::SUCCESS,
        // `honed rollouts export | head` ends the pipe, and nothing is wrong.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("honed: {error}");
            let mut said = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                // Many messages end with their cause already.
                let text = error.to_string();
                if !said.contains(&text) {
                    eprintln!("  because {text}");
                    said = text;
                }
                cause = error.source();
            }
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
