//! What people said about a response, and how long to wait for it.
//!
//! Both are pure functions of what the log knows and of the clock's reading: nothing here sleeps, so that a restart in the
//! middle of a wait changes nothing.

use crate::score::Score;

/// Thumbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Good.
    Up,
    /// Bad.
    Down,
}

/// What one user said about one response. An edit or a comment alone is no judgement. Number and thumb are both there
/// only where they were said together: of two judgements the log keeps the later.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Opinion {
    /// A number on the scale of the reward model.
    pub score: Option<f64>,
    /// Thumbs.
    pub label: Option<Label>,
}

impl Opinion {
    /// The number, where one was given: it says more than the thumb beside it. A thumb alone is +1 or −1, one standard
    /// deviation of the reference policy on the scale of a normalised reward model.
    #[must_use]
    pub fn judgement(&self) -> Option<Score> {
        let of_label = |label| match label {
            Label::Up => 1.0,
            Label::Down => -1.0,
        };
        let score = self.score.filter(|score| score.is_finite());
        score.or(self.label.map(of_label)).map(Score)
    }
}

/// What all users together said: the mean, one voice each.
#[must_use]
pub fn judgement(opinions: &[Opinion]) -> Option<Score> {
    let voices: Vec<f64> = opinions.iter().filter_map(Opinion::judgement).map(|score| score.0).collect();
    if voices.is_empty() {
        return None;
    }
    Some(Score(voices.iter().sum::<f64>() / voices.len() as f64))
}

/// What to do about feedback now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patience {
    /// Somebody spoke.
    Heard(Score),
    /// Nobody did; look again after so many milliseconds.
    Wait {
        /// Milliseconds until the wait is over.
        left_ms: u64,
    },
    /// Nobody did, and the time is up.
    Over,
}

/// Whether a response of `created_ms` is judged by people, still waits for them, or has waited `wait_s` in vain.
///
/// All times are milliseconds since the Unix epoch. A clock that was set back makes the wait longer, by one wait at most: a
/// response from further in the future than that would wait for a time that may never come, so its wait is over.
#[must_use]
pub fn patience(opinions: &[Opinion], created_ms: u64, now_ms: u64, wait_s: u64) -> Patience {
    if let Some(score) = judgement(opinions) {
        return Patience::Heard(score);
    }
    let (wait_ms, waited_ms) = (wait_s.saturating_mul(1000), now_ms.saturating_sub(created_ms));
    if created_ms > now_ms.saturating_add(wait_ms) {
        return Patience::Over;
    }
    match wait_ms.saturating_sub(waited_ms) {
        0 => Patience::Over,
        left_ms => Patience::Wait { left_ms },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Opinion = Opinion { score: None, label: Some(Label::Up) };
    const DOWN: Opinion = Opinion { score: None, label: Some(Label::Down) };

    fn scored(score: f64) -> Opinion {
        Opinion { score: Some(score), label: None }
    }

    #[test]
    fn thumbs_are_one_unit_and_numbers_outrank_them() {
        assert_eq!(UP.judgement(), Some(Score(1.0)));
        assert_eq!(DOWN.judgement(), Some(Score(-1.0)));
        assert_eq!(Opinion { score: Some(0.25), label: Some(Label::Up) }.judgement(), Some(Score(0.25)));
        assert_eq!(Opinion { score: Some(f64::NAN), label: Some(Label::Down) }.judgement(), Some(Score(-1.0)));
        assert_eq!(Opinion::default().judgement(), None);
    }

    #[test]
    fn every_user_has_one_voice_and_silence_has_none() {
        assert_eq!(judgement(&[UP, DOWN, scored(3.0), Opinion::default()]), Some(Score(1.0)));
        assert_eq!(judgement(&[Opinion::default()]), None);
        assert_eq!(judgement(&[]), None);
    }

    #[test]
    fn the_wait_ends_at_its_millisecond() {
        let at = |now_ms| patience(&[], 10_000, now_ms, 60);
        assert_eq!(at(10_000), Patience::Wait { left_ms: 60_000 });
        assert_eq!(at(69_999), Patience::Wait { left_ms: 1 });
        assert_eq!(at(70_000), Patience::Over);
        assert_eq!(at(5_000), Patience::Wait { left_ms: 60_000 }, "the clock was set back");
        assert_eq!(patience(&[], 100_000, 39_999, 60), Patience::Over, "and by more than anybody waits");
        assert_eq!(patience(&[], 10_000, 10_000, 0), Patience::Over, "no wait is wanted");
        assert_eq!(patience(&[UP], 10_000, 10_000_000, 60), Patience::Heard(Score(1.0)), "late is not never");
    }
}
