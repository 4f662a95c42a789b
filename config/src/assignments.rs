//! The `[ppo]` section as assignments: the text that an update's record keeps, and that loads again years later.
//!
//! `ppo.kl_coef=0.05`, one knob a line: what `--set` takes, so a record can also be repeated by hand. A knob that a newer
//! honed has added since gets its default, or what was done before there was a choice; one that it has dropped is an
//! error that names it.

use std::fmt::Write;

use toml::Value;

use crate::{Config, ConfigError, Ppo, Sources};

/// What an update did whose record has no such line, where that is not what the default of today does.
const BEFORE: [&str; 1] = ["ppo.value_head_learning_rate=0.0"];

impl Ppo {
    /// The defaults for whole weights, or those for `adapters`.
    ///
    /// # Panics
    /// Never: a test loads both.
    #[must_use]
    pub fn defaults(adapters: bool) -> Ppo {
        let sets = if adapters { vec!["ppo.lora_rank=16".to_owned()] } else { Vec::new() };
        let sources = Sources { file: None, env: Vec::new(), sets };
        Config::load(sources).expect("defaults are in their own ranges").ppo
    }

    /// One line a knob, in the order of the section; the section of the log, which changes no weight, is left out.
    #[must_use]
    pub fn assignments(&self) -> String {
        let table = Value::try_from(self).expect("numbers, switches and strings are TOML");
        let mut text = String::new();
        for knob in Ppo::SECTION.knobs {
            let value = match &table[knob.name] {
                // Shortest form that reads back to the same bits.
                Value::Float(x) => format!("{x:?}"),
                value => value.to_string(),
            };
            writeln!(text, "{}.{}={value}", Ppo::SECTION.path, knob.name).expect("a String takes all text");
        }
        text
    }

    /// The section that [`Ppo::assignments`] wrote.
    ///
    /// # Errors
    /// When a line names no knob of today, or a value that is out of its range.
    pub fn from_assignments(text: &str) -> Result<Ppo, ConfigError> {
        let sets = BEFORE.into_iter().chain(text.lines()).map(str::to_owned).collect();
        Ok(Config::load(Sources { file: None, env: Vec::new(), sets })?.ppo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_comes_back_with_every_bit() {
        let mut ppo = Config::default().ppo;
        (ppo.policy_learning_rate, ppo.kl_coef, ppo.seed) = (1.0 / 3.0, 0.1 + 0.2, i64::MAX as u64);
        (ppo.kl_adaptive, ppo.client_limit) = (true, "drop".to_owned());
        let again = Ppo::from_assignments(&ppo.assignments()).expect("it was written by us");
        assert_eq!(again, ppo);
        assert_eq!(again.kl_coef.to_bits(), ppo.kl_coef.to_bits());
    }

    /// Goal: a record of adapters that learnt before their head had a rate of its own means what it did. Method: today's record of
    /// adapters, with that line and without it.
    #[test]
    fn a_record_that_lacks_a_knob_means_what_was_done_then() {
        let now = Ppo::defaults(true);
        let lines = now.assignments();
        assert_eq!(Ppo::from_assignments(&lines).expect("of today"), now);
        let then: Vec<&str> = lines.lines().filter(|line| !line.contains("value_head_learning_rate")).collect();
        let then = Ppo::from_assignments(&then.join("\n")).expect("of an older honed");
        assert_eq!(then, Ppo { value_head_learning_rate: 0.0, ..now });
    }

    #[test]
    fn a_knob_of_another_honed_is_named() {
        let error = Ppo::from_assignments("ppo.magic=3\n").expect_err("no such knob").to_string();
        assert!(error.contains("ppo.magic"), "{error}");
    }
}
