//! The table on standard output.

use std::fmt::Write;

use super::verdict::Verdict;

/// Width of the first column.
const NAME: usize = 38;
/// Width of a seed's column.
const VALUE: usize = 24;

/// Shapes one after another: the verdict, then what was found, one column a seed.
pub(super) fn render(seeds: &[u64], verdicts: &[Verdict]) -> String {
    let mut text = format!("{:NAME$}", "");
    for seed in seeds {
        let _ = write!(text, "{:VALUE$}", format!("seed {seed}"));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    for (number, verdict) in (1..).zip(verdicts) {
        let said = if verdict.held { "held" } else { "did not hold" };
        let _ = write!(text, "\n{number}. {}: {said}\n   ({})\n", verdict.shape, verdict.criterion);
        for (name, values) in &verdict.rows {
            let mut line = format!("   {name:width$}", width = NAME - 3);
            values.iter().for_each(|value| {
                let _ = write!(line, "{value:VALUE$}");
            });
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    let n_held = verdicts.iter().filter(|verdict| verdict.held).count();
    let _ = writeln!(text, "\n{n_held} of {} shapes held", verdicts.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_does_not_hold_is_said_not_to_hold() {
        let verdict = |held| Verdict {
            shape: "Water is wet",
            criterion: "drops".to_owned(),
            rows: vec![("humidity, %".to_owned(), vec!["99".to_owned(), "3".to_owned()])],
            held,
        };
        let text = render(&[7, 8], &[verdict(true), verdict(false)]);
        assert!(text.contains("1. Water is wet: held") && text.contains("2. Water is wet: did not hold"));
        assert!(text.contains("seed 7") && text.contains("seed 8") && text.ends_with("1 of 2 shapes held\n"));
        let line = text.lines().find(|line| line.contains("humidity")).unwrap();
        assert_eq!(line.split_whitespace().rev().take(2).collect::<Vec<_>>(), ["3", "99"]);
    }
}
