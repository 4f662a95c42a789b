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
                false => writeln!(out, "{}", shown(&line(&row)))?,
            }
        }
    }
    Ok(())
}

/// On one line and without a terminal's commands: file names and users' words are somebody else's choice, and one with a line
/// break in it would be a row that nobody wrote.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
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

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_row_is_one_line_and_commands_no_terminal() {
        assert_eq!(shown("policy@7.gguf: it's \"here\", \u{e9}"), "policy@7.gguf: it's \"here\", \u{e9}");
        for hostile in ["x\n   99  learner", "\u{1b}[31m", "a\u{202e}b", "\0", "\u{2028}", "\u{9b}31m"] {
            let text = shown(hostile);
            assert!(text.chars().all(|c| !c.is_control() && !"\u{202e}\u{2028}".contains(c)), "{text:?}");
            assert!(text.contains('\\'), "{text:?}");
        }
    }
}
