//! `honed rollouts forget --user USER`.

use ppo::rollout_log::{Forgotten, Who};

use crate::{
    cli::{ConfigArgs, Misuse, Outcome, holder::Holder, say},
    http::wire::forget as wire,
};

/// Whom to forget.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The `user` of the requests.
    #[arg(long, value_name = "USER")]
    user: String,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &Args) -> Outcome {
    if args.user.is_empty() {
        let why = "--user: a user must have a name: exchanges without one cannot be told apart";
        return Err(Misuse(why.to_owned()).into());
    }
    let forgotten = match Holder::find(&args.config.load()?)? {
        Holder::Us(log) => {
            let forgotten = log.forget_user(&args.user, &Who::cli())?;
            log.close();
            forgotten
        }
        Holder::Daemon(daemon) => {
            let answer = daemon.post("/v1/rollouts/forget", &wire::body(&args.user))?;
            wire::read(&answer).ok_or("the daemon's answer cannot be read; is it of another version?")?
        }
    };
    // Shown, not answered: what is still to be forgotten is told, and is the exit code, whoever reads this.
    say::show(told(&forgotten).trim_end());
    match forgotten.n_claimed {
        0 => Ok(()),
        n => Err(format!("{n} rollouts are part of an update that runs; ask again when it has ended").into()),
    }
}

fn told(forgotten: &Forgotten) -> String {
    let Forgotten { n_rollouts, n_feedback, trained, .. } = forgotten;
    let mut text = format!("removed {n_rollouts} rollouts and {n_feedback} words of feedback\n");
    for (version, n) in trained {
        text.push_str(&format!(
            "{n} of them had trained {version}, which keeps what it learnt and says so in its row\n"
        ));
    }
    text
}
