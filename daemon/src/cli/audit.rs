//! `honed audit`: who did what to what serves and to what is kept. Reads beside a running daemon, without its lock.

use std::io::Write;

use ppo::rollout_log::{Act, AuditRow, Who};

use super::{ConfigArgs, Outcome, clock::utc, rollouts};
use crate::http::wire::{audit as wire, json};

/// Rows in memory at once.
const BATCH: usize = 256;

/// Which rows, and how.
#[derive(clap::Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only rows after this number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Rows at most; all of them when absent.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One line of JSON a row instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &AuditArgs) -> Outcome {
    let reader = rollouts::open(&args.config)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        writeln!(out, "{:>6}  {:<23}  {:<14}  {:<13}{:<9}subject", "number", "time", "actor", "action", "outcome")?;
    }
    let (mut after, mut n_left) = (args.after, args.limit.unwrap_or(usize::MAX));
    while n_left > 0 {
        let rows = reader.audit(after, n_left.min(BATCH))?;
        let Some(last) = rows.last() else { break };
        after = last.number;
        n_left -= rows.len();
        for row in rows {
            match args.json {
                true => writeln!(out, "{}", json(&wire::AuditRow::from(row)))?,
                false => writeln!(out, "{}", line(&row))?,
            }
        }
    }
    Ok(())
}

fn line(row: &AuditRow) -> String {
    let Act { who: Who { actor, remote, request }, action, subject } = &row.act;
    let mut text = format!(
        "{:>6}  {:<23}  {actor:<14}  {:<13}{:<9}{}",
        row.number,
        utc(row.at_ms),
        action.as_str(),
        row.outcome(),
        subject.as_deref().unwrap_or("-")
    );
    for (name, value) in [("from", remote), ("request", request)] {
        if let Some(value) = value {
            text.push_str(&format!(" {name} {value}"));
        }
    }
    if let Some(detail) = &row.detail {
        text.push_str(&format!(": {detail}"));
    }
    text
}
