//! How far apart the scores of a pair ought to be.
//!
//! A labeler who finds one answer far better says more than one who hesitates. Llama 2 (arXiv 2307.09288, section 3.2.2) asks a
//! larger gap of the scores of the first pair: `-log sigma(s_w - s_l - m)`, with m by the strength of the preference. Where a
//! reward model learnt with margins its gaps are wider than what they say of probabilities.

/// m of one pair: finite, not negative, score units.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Margin(f64);

/// Equal to itself, for it is a number.
impl Eq for Margin {}

impl Margin {
    /// `None` for what is no gap: a negative number, an infinite one, none.
    #[must_use]
    pub fn new(gap: f64) -> Option<Margin> {
        (gap.is_finite() && gap >= 0.0).then_some(Margin(gap))
    }

    /// Score units.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// How strongly a labeler prefers the better answer of a pair, in Llama 2's four grades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// It is significantly better.
    Significantly,
    /// It is better.
    Better,
    /// It is slightly better.
    Slightly,
    /// It is negligibly better, or the labeler is unsure.
    Unsure,
}

impl Strength {
    /// All of them, the strongest first.
    pub const ALL: [Strength; 4] = [Strength::Significantly, Strength::Better, Strength::Slightly, Strength::Unsure];

    /// Its word in a data file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Strength::Significantly => "significantly",
            Strength::Better => "better",
            Strength::Slightly => "slightly",
            Strength::Unsure => "unsure",
        }
    }

    /// The strength of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Strength> {
        Strength::ALL.into_iter().find(|strength| strength.word() == word)
    }
}

/// Which margins strengths have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// 1, 2/3, 1/3 and 0.
    Small,
    /// 3, 2, 1 and 0.
    Large,
}

impl Scale {
    /// m of a pair that somebody prefers so strongly.
    #[must_use]
    pub fn margin(self, strength: Strength) -> Margin {
        let grade = match strength {
            Strength::Significantly => 3.0,
            Strength::Better => 2.0,
            Strength::Slightly => 1.0,
            Strength::Unsure => 0.0,
        };
        match self {
            Scale::Small => Margin(grade / 3.0),
            Scale::Large => Margin(grade),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_have_llama_2s_margins() {
        let margins = |scale: Scale| Strength::ALL.map(|strength| scale.margin(strength).get());
        assert_eq!(margins(Scale::Small), [1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]);
        assert_eq!(margins(Scale::Large), [3.0, 2.0, 1.0, 0.0]);
        assert!(Strength::ALL.into_iter().all(|strength| Strength::parse(strength.word()) == Some(strength)));
        assert_eq!(Strength::parse("very"), None);
    }

    #[test]
    fn a_margin_is_a_gap() {
        assert_eq!([0.0, 0.5, 1e300].map(|gap| Margin::new(gap).map(Margin::get)), [0.0, 0.5, 1e300].map(Some));
        assert_eq!([-1e-9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Margin::new), [None; 4]);
    }
}
