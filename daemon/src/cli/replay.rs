//! `honed replay UPDATE`: computes an update again and lays it beside its record. Reads beside a running daemon, without its
//! lock, and changes nothing.

use std::{io::Write, path::Path};

use clap::Args;
use policy::Vocabulary;
use ppo::{
    beginning::Beginning,
    replay::{self, Archive, Comparison, ReplayError},
};

use super::{ConfigArgs, Outcome};
use crate::app;

/// What decides how an update comes out and is not in its record.
const AS_IT_WAS: &str = "--config, --set reward.model, --reward-url and ppo.ptx_file as the daemon had them";

/// Which update, and where it was.
#[derive(Args)]
#[command(after_help = format!("Give {AS_IT_WAS}.\n\
    Updates are counted from 0 and are not versions: `honed policies show N` says which update made a version."))]
pub(crate) struct ReplayArgs {
    /// Number of the update, counted from 0: not the version that it made.
    update: u64,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &ReplayArgs) -> Outcome {
    let config = args.config.load()?;
    let data_dir = Path::new(&config.daemon.data_dir);
    if !data_dir.is_dir() {
        return Err(format!("there is no data directory {data_dir:?}; name it with --data-dir").into());
    }
    let archive = Archive::open(data_dir)?;
    let sft = archive.sft()?;
    let vocabulary = Vocabulary::load(&sft)?;
    let value_start = app::value_start(&config, vocabulary.digest(), &sft).map_err(otherwise)?;
    let pretraining = app::pretraining(&config.ppo, &vocabulary).map_err(otherwise)?;
    let beginning = Beginning::new(&sft, value_start, &config.ppo).map_err(otherwise)?.with_pretraining(pretraining);
    let comparison = match replay::rebuild(&archive, &beginning, &config.ppo, args.update) {
        Err(error @ ReplayError::NoRecord(_)) => {
            return Err(format!("{error}: {}", counted(archive.newest_update()?.map(|row| row.start.number))).into());
        }
        Err(error @ ReplayError::Different { .. }) => return Err(otherwise(error).into()),
        other => other?,
    };
    table(&mut std::io::stdout().lock(), &comparison)?;
    match comparison.is_equal() {
        true => Ok(()),
        false => {
            let why = format!("update {} came out differently than it was recorded", args.update);
            Err(otherwise(why).into())
        }
    }
}

/// An error that other arguments may cure.
fn otherwise(error: impl std::fmt::Display) -> String {
    format!("{error}; give {AS_IT_WAS}")
}

/// What there is in place of an update that there is not.
fn counted(newest: Option<u64>) -> String {
    match newest {
        Some(newest) => {
            format!("updates are counted from 0 and are not versions, and the newest that ended is {newest}")
        }
        None => "none has ended here yet".to_owned(),
    }
}

fn table(out: &mut impl Write, comparison: &Comparison) -> std::io::Result<()> {
    let start = &comparison.row.start;
    let from = comparison.began_with.map_or_else(|| "a fresh start".to_owned(), |n| format!("the state of update {n}"));
    writeln!(
        out,
        "update {} on {}, {} computed from {from}",
        start.number,
        start.parent,
        updates(comparison.n_computed)
    )?;
    writeln!(out, "\n{:<44}{:>24}{:>24}", "", "recorded", "computed again")?;
    for (name, recorded, rebuilt) in &comparison.numbers {
        let [a, b] = [recorded, rebuilt].map(|number| number.map_or_else(|| "-".to_owned(), |x| format!("{x:?}")));
        writeln!(out, "{name:<44}{a:>24}{b:>24}{}", mark(a == b))?;
    }
    let [recorded, rebuilt] = comparison.digests.clone().map(|digest| digest.unwrap_or_else(|| "none".to_owned()));
    writeln!(out, "\ndigest     recorded        {recorded}")?;
    writeln!(out, "           computed again  {rebuilt}{}", mark(recorded == rebuilt))?;
    let [recorded, rebuilt] = &comparison.states;
    writeln!(out, "state      recorded        {recorded}")?;
    writeln!(out, "           computed again  {rebuilt}{}", mark(recorded == rebuilt))?;
    let [then, now] = &comparison.arithmetic;
    writeln!(out, "arithmetic recorded        {then}")?;
    writeln!(out, "           computed again  {now}")?;
    writeln!(out, "\n{}", if comparison.is_equal() { "equal in every bit" } else { "different" })
}

fn updates(n: u64) -> String {
    if n == 1 { "1 update".to_owned() } else { format!("{n} updates") }
}

fn mark(is_same: bool) -> &'static str {
    if is_same { "" } else { "  differs" }
}
