//! What a run has to show: one row an update, and the way from the first to the last.

use ppo::stats::UpdateRecord;

/// Rows so far, as far as the summary needs them.
#[derive(Default)]
pub(super) struct Table {
    first: Option<Row>,
    last: Option<Row>,
    n_promoted: usize,
    n_updates: usize,
}

/// The numbers of one update.
#[derive(Clone, Copy)]
struct Row {
    score: f64,
    kl: f64,
    length: f64,
    eos: f64,
}

impl Table {
    /// Names of the columns.
    pub(super) const HEAD: &'static str = "update  version  outcome        score  KL nats   length  EOS rate  seconds";

    /// Takes an update in and gives its row.
    pub(super) fn add(&mut self, record: &UpdateRecord) -> String {
        let number = |name: &str| record.numbers.get(name).copied().unwrap_or(f64::NAN);
        let row = Row {
            score: number("objective/scores"),
            kl: number("objective/kl"),
            length: number("completions/mean_length"),
            eos: number("completions/eos_rate"),
        };
        if !row.score.is_nan() {
            self.first.get_or_insert(row);
            self.last = Some(row);
        }
        self.n_updates += 1;
        self.n_promoted += usize::from(record.outcome == ppo::stats::UpdateOutcome::Promoted);
        let version = record.version.map_or("-".to_owned(), |version| version.0.to_string());
        let line = format!(
            "{:>6}  {version:>7}  {:<11}  {:>7.3}  {:>7.3}  {:>7.1}  {:>8.3}  {:>7.1}",
            record.update,
            record.outcome.as_str(),
            row.score,
            row.kl,
            row.length,
            row.eos,
            record.seconds.unwrap_or(f64::NAN)
        );
        match &record.reason {
            Some(reason) => format!("{line}  {reason}"),
            None => line,
        }
    }

    /// The way from the first update's answers to the last's.
    pub(super) fn summary(&self) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return "no update has ended".to_owned();
        };
        format!(
            "{} updates, {} of them promoted: score {:.3} -> {:.3}, KL {:.3} -> {:.3} nats, length {:.1} -> {:.1}, \
             EOS rate {:.3} -> {:.3}",
            self.n_updates,
            self.n_promoted,
            first.score,
            last.score,
            first.kl,
            last.kl,
            first.length,
            last.length,
            first.eos,
            last.eos
        )
    }
}
