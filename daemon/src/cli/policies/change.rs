//! `honed policies activate N` and `honed policies prune`.

use policy::PolicyVersion;
use ppo::{
    Registry,
    registry::Retention,
    rollout_log::{Act, Action, Who},
};

use crate::{
    cli::{
        ConfigArgs, Outcome,
        holder::{Holder, registry},
        say,
    },
    http::wire::policy as wire,
};

/// Which version.
#[derive(clap::Args)]
pub(crate) struct ActivateArgs {
    /// Number of the version.
    version: u64,
    /// Only when this version is live now.
    #[arg(long, value_name = "N")]
    expected_live: Option<u64>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What to keep.
#[derive(clap::Args)]
pub(crate) struct PruneArgs {
    /// Versions to keep beside version 0 and the live one [ppo.keep_versions].
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// MiB of these to keep; the newest stays whatever it weighs [ppo.keep_versions_mib].
    #[arg(long, value_name = "MIB")]
    keep_mib: Option<u64>,
    /// Say what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Makes a retained version live: in the folder, or in the daemon that has it.
pub(super) fn activate(args: &ActivateArgs) -> Outcome {
    let config = args.config.load()?;
    let (version, expected) = (PolicyVersion(args.version), args.expected_live.map(PolicyVersion));
    match Holder::find(&config)? {
        Holder::Us(log) => {
            let registry = registry(&log, &config)?;
            let activated = registry.may_activate(version, expected);
            let activated = activated.and_then(|_| registry.verify(version));
            let activated = activated.and_then(|_| registry.activate(version, expected));
            let before = activated.inspect_err(|why| {
                log.note(Act::new(&Who::cli(), Action::Activate, version.to_string()).refused(why));
            })?;
            log.close();
            say::answer(format_args!("{version} is live in place of {before}; the next daemon serves it"))?;
        }
        Holder::Daemon(daemon) => {
            let body = wire::activation(expected);
            daemon.post(&format!("/v1/policies/{}/activate", args.version), &body)?;
            say::answer(format_args!("{version} is live; the daemon serves it"))?;
        }
    }
    Ok(())
}

/// Removes the files of versions beyond the retention. A daemon does so itself after every publication,
/// import and activation.
pub(super) fn prune(args: &PruneArgs) -> Outcome {
    let config = args.config.load()?;
    let Holder::Us(log) = Holder::find(&config)? else {
        let why = "a daemon has this folder; it keeps to ppo.keep_versions by itself after every publication, import and activation";
        return Err(why.into());
    };
    let mib = args.keep_mib.unwrap_or(config.ppo.keep_versions_mib);
    let keep = Retention {
        versions: args.keep.unwrap_or(config.ppo.keep_versions),
        bytes: if mib == 0 { u64::MAX } else { mib.saturating_mul(1 << 20) },
    };
    let surplus = match args.dry_run {
        // The registry is not opened for this: that repairs what a crash left, and so removes files.
        true => Registry::would_retire(&log, keep)?,
        false => {
            let registry = registry(&log, &config)?;
            let surplus = registry.surplus(keep, &[])?;
            registry.retire(&surplus)?;
            surplus
        }
    };
    log.close();
    let verb = if args.dry_run { "would remove" } else { "removed" };
    for gone in &surplus {
        let version = gone.version.to_string();
        say::answer(format_args!("{verb} {version:<12}{:>14} bytes  {}", gone.bytes, gone.reason))?;
    }
    let bytes = surplus.iter().map(|gone| gone.bytes).sum::<u64>();
    say::answer(format_args!("{verb} {} versions, {bytes} bytes", surplus.len()))?;
    Ok(())
}
