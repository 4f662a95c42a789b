//! Where the artefacts come from: command, seed, numbers and digests, as a page that is kept beside them.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use policy::checkpoint::Digest;

use super::Measured;

/// Collects what happens.
pub(super) struct Provenance {
    seed: u64,
    numbers: BTreeMap<String, f64>,
    kinds: Vec<(String, String)>,
    digests: BTreeMap<&'static str, String>,
}

impl Provenance {
    /// Nothing has happened yet.
    pub(super) fn new(seed: u64) -> Provenance {
        Provenance { seed, numbers: BTreeMap::new(), kinds: Vec::new(), digests: BTreeMap::new() }
    }

    /// Takes over the numbers of an interrupted build; false when there are none.
    pub(super) fn resume(&mut self, notes: &std::path::Path) -> bool {
        let Ok(text) = std::fs::read_to_string(notes) else { return false };
        for line in text.lines() {
            if let [name, value] = line.split_whitespace().collect::<Vec<_>>()[..]
                && let Ok(value) = value.parse()
            {
                self.note(name, value);
            }
        }
        !self.numbers.is_empty()
    }

    /// One number.
    pub(super) fn note(&mut self, name: &str, value: f64) {
        self.numbers.insert(name.to_owned(), value);
    }

    /// Several.
    pub(super) fn numbers(&mut self, numbers: Vec<(&'static str, f64)>) {
        numbers.into_iter().for_each(|(name, value)| self.note(name, value));
    }

    /// What a version is good for.
    pub(super) fn measured(&mut self, name: &str, measured: &Measured) {
        let parts = &measured.parts;
        for (what, value) in [
            ("gold", measured.gold),
            ("helpful", parts.helpful),
            ("honest", parts.honest),
            ("harmless", parts.harmless),
            ("ends", parts.ends),
            ("perfect_share", measured.perfect),
            ("answer_tokens", measured.n_tokens),
        ] {
            self.note(&format!("{name}.{what}"), value);
        }
        let kinds: Vec<String> = measured.by_kind.iter().map(|(kind, gold)| format!("{kind:?} {gold:.2}")).collect();
        self.kinds.push((name.to_owned(), kinds.join(", ")));
    }

    /// A file was written.
    pub(super) fn digest(&mut self, file: &'static str, digest: Digest) {
        self.digests.insert(file, digest.to_string());
    }

    /// It is over.
    pub(super) fn finish(&mut self, elapsed: Duration) {
        self.note("seconds", elapsed.as_secs_f64());
    }

    /// The numbers so far, a line each.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.numbers {
            let _ = writeln!(text, "{name:<28} {value:.4}");
        }
        for (name, kinds) in &self.kinds {
            let _ = writeln!(text, "{name} gold by kind: {kinds}");
        }
        text
    }

    /// The page.
    pub(super) fn render(&self) -> String {
        let date = humantime(std::time::SystemTime::now());
        let mut page = format!(
            "# Where these files come from\n\nMade on {date} by `honed demo --from-scratch --seed {}` (honed {}), from nothing but the seed:\nthe text of the tiny world, a base model, supervised fine-tuning on flawed demonstrations, and a reward model from\nnoisy rankings. Numbers are on validation prompts; gold is at most 1, and 0 is worth as much as silence.\n\n| file | SHA-256 |\n|---|---|\n",
            self.seed,
            env!("CARGO_PKG_VERSION")
        );
        for (file, digest) in &self.digests {
            let _ = writeln!(page, "| `{file}` | `{digest}` |");
        }
        page.push_str("\n```\n");
        page.push_str(&self.summary());
        page.push_str("```\n");
        page
    }
}

/// The date of a moment, in the Gregorian calendar (UTC).
///
/// Days since 1970 to year, month, day, as in Howard Hinnant's `civil_from_days`: eras of 400 years that begin in March.
fn humantime(now: std::time::SystemTime) -> String {
    let seconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_right_at_the_edges_of_months_and_leap_years() {
        for (days, date) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_722, "2023-12-31"),
            (19_723, "2024-01-01"),
        ] {
            assert_eq!(super::humantime(UNIX_EPOCH + Duration::from_secs(days * 86_400 + 5)), date);
        }
    }
}
