//! After the promotion: does what users get get worse?
//!
//! A trial asks a few questions; users ask all of them. So the first rollouts of a new live version are held against the last of
//! its nearest ancestor that has enough of them, and when they are worse beyond doubt *and* by much, that ancestor serves
//! again and learning stands still until an operator has looked. Both conditions, because traffic changes too: a test alone
//! would end in a rollback every time that harder questions come in.
//!
//! A little worse each time is never much worse than the one before. So the rewards are also held against those of every other
//! ancestor that could serve again, version 0 among them, under the same two conditions ([`slide`]). Only the rewards: what
//! is rewarded may well make answers longer, version by version.
//!
//! Scores are compared judge by judge: another reward model has another scale, and what it says of a new version beside what
//! the old one said of an old version says nothing about either. Where no judge has seen enough of both, failures, lengths and
//! thumbs have to do.
//!
//! How long a token takes is looked at by itself ([`latency`]), for no answer shows it.

mod failures;
pub mod latency;

use std::collections::BTreeMap;

pub use failures::{Errors, Recent};

/// Rollouts below which nothing is said about a version, and between two looks past its nearest ancestor.
pub const ROLLOUTS_MIN: usize = 32;
/// Student's t (Welch) that a fall must reach.
const T_MIN: f64 = 4.0;
/// Deviations of the ancestor's scores by which the mean must fall.
const FALL_MIN: f64 = 0.25;
/// Share by which thumbs down must rise.
const THUMBS_MIN: f64 = 0.1;
/// Factor by which the mean length must change.
const LENGTH_FACTOR: f64 = 3.0;

/// What users got from one version. Only what may train is judged; thumbs are those of every answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Scores, as judged, less what their lengths cost.
    pub scores: Vec<f64>,
    /// The reward version of each.
    pub judges: Vec<String>,
    /// Response tokens of what was judged.
    pub lengths: Vec<f64>,
    /// Thumbs: up, down.
    pub thumbs: (usize, usize),
    /// Whether there are as many scores as there will ever be, where it was read from its first answer on.
    pub is_full: bool,
}

impl Service {
    /// The scores of every judge that has seen enough of it.
    fn by_judge(&self) -> BTreeMap<&str, Vec<f64>> {
        let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (judge, score) in self.judges.iter().zip(&self.scores) {
            all.entry(judge).or_default().push(*score);
        }
        all.retain(|_, scores| scores.len() >= ROLLOUTS_MIN);
        all
    }
}

/// What is looked at of answers, each by itself: a version may have enough of one and little of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// Scores, judge by judge.
    Reward,
    /// Response tokens.
    Length,
    /// What people said.
    Thumbs,
}

impl Aspect {
    /// All of them, in the order in which they are looked at.
    pub const ALL: [Aspect; 3] = [Aspect::Reward, Aspect::Length, Aspect::Thumbs];

    /// Whether there is enough of it in a service to say anything.
    #[must_use]
    pub fn is_enough_in(self, service: &Service) -> bool {
        let n = match self {
            Aspect::Reward => service.scores.len(),
            Aspect::Length => service.lengths.len(),
            Aspect::Thumbs => service.thumbs.0 + service.thumbs.1,
        };
        n >= ROLLOUTS_MIN
    }

    /// Why the live version must go, in words; `None` while there is no reason.
    #[must_use]
    pub fn breach(self, live: &Service, before: &Service) -> Option<String> {
        if !self.is_enough_in(live) || !self.is_enough_in(before) {
            return None;
        }
        match self {
            Aspect::Reward => reward_fell(live, before).map(|fall| fall.why),
            Aspect::Length => length_changed(&live.lengths, &before.lengths),
            Aspect::Thumbs => thumbs_turned(live.thumbs, before.thumbs),
        }
    }
}

/// What one judge saw.
struct Fall {
    /// Of its scores of the ancestor.
    deviations: f64,
    why: String,
}

fn reward_fell(live: &Service, before: &Service) -> Option<Fall> {
    let before = before.by_judge();
    live.by_judge().into_iter().find_map(|(judge, scores)| {
        let (new, old) = (Sample::of(&scores), Sample::of(before.get(judge)?));
        let fell = old.mean - new.mean >= FALL_MIN * old.deviation() && t(old, new) >= T_MIN;
        let n = scores.len();
        fell.then(|| Fall {
            deviations: (old.mean - new.mean) / old.deviation(),
            why: format!("reward fell from {:.3} to {:.3} ({n} rollouts, judged by {judge})", old.mean, new.mean),
        })
    })
}

/// Which of these ancestors should serve in place of the live version, and why: of those that its reward has fallen from, beyond
/// doubt and by much, the one that it has fallen furthest from. `None` while there is none.
#[must_use]
pub fn slide(live: &Service, ancestors: &[Service]) -> Option<(usize, String)> {
    let fallen = ancestors.iter().enumerate().filter_map(|(i, before)| Some((i, reward_fell(live, before)?)));
    let best = fallen.max_by(|(_, one), (_, other)| one.deviations.total_cmp(&other.deviations));
    best.map(|(i, fall)| (i, format!("{}, little by little", fall.why)))
}

fn length_changed(live: &[f64], before: &[f64]) -> Option<String> {
    let (new, old) = (mean(live).max(1.0), mean(before).max(1.0));
    let is_another = new / old >= LENGTH_FACTOR || old / new >= LENGTH_FACTOR;
    is_another.then(|| format!("answers went from {old:.1} to {new:.1} tokens"))
}

fn thumbs_turned(live: (usize, usize), before: (usize, usize)) -> Option<String> {
    let [n_live, n_before] = [live, before].map(|(up, down)| up + down);
    let [new, old] = [live.1 as f64 / n_live as f64, before.1 as f64 / n_before as f64];
    let pooled = (live.1 + before.1) as f64 / (n_live + n_before) as f64;
    let error = (pooled * (1.0 - pooled) * (1.0 / n_live as f64 + 1.0 / n_before as f64)).sqrt();
    let is_worse = new - old >= THUMBS_MIN && new - old >= T_MIN * error;
    is_worse.then(|| format!("thumbs down rose from {:.0} % to {:.0} %", 100.0 * old, 100.0 * new))
}

#[derive(Clone, Copy)]
struct Sample {
    n: f64,
    mean: f64,
    variance: f64,
}

impl Sample {
    fn of(x: &[f64]) -> Sample {
        let (n, mean) = (x.len() as f64, mean(x));
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Sample { n, mean, variance }
    }

    fn deviation(self) -> f64 {
        self.variance.sqrt()
    }
}

/// Welch's t of the mean of `a` − that of `b`; `None` with fewer than two of either.
#[must_use]
pub fn welch(a: &[f64], b: &[f64]) -> Option<f64> {
    (a.len() > 1 && b.len() > 1).then(|| t(Sample::of(a), Sample::of(b)))
}

/// Welch's t of `a` − `b`; infinite where neither varies and they differ.
fn t(a: Sample, b: Sample) -> f64 {
    let error = (a.variance / a.n + b.variance / b.n).sqrt();
    if a.mean == b.mean { 0.0 } else { (a.mean - b.mean) / error }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(n: usize, score: impl Fn(usize) -> f64, length: f64) -> Service {
        judged_by("model@a", n, score, length)
    }

    /// All that is looked at.
    fn breach(live: &Service, before: &Service, errors: Errors) -> Option<String> {
        let of_aspects = || Aspect::ALL.iter().find_map(|aspect| aspect.breach(live, before));
        errors.breach().or_else(of_aspects)
    }

    fn judged_by(judge: &str, n: usize, score: impl Fn(usize) -> f64, length: f64) -> Service {
        Service {
            scores: (0..n).map(score).collect(),
            judges: vec![judge.to_owned(); n],
            lengths: vec![length; n],
            thumbs: (0, 0),
            is_full: false,
        }
    }

    /// Between 0 and 1, mean about a half.
    fn noise(i: usize) -> f64 {
        (i * 37 % 100) as f64 / 100.0
    }

    #[test]
    fn a_fall_beyond_doubt_and_by_much_is_a_breach() {
        let before = service(200, noise, 20.0);
        let quiet = Errors { failed_requests: 4, failed: 4, finished: 10 };
        assert_eq!(breach(&service(64, noise, 20.0), &before, quiet), None);
        assert_eq!(breach(&service(64, |i| noise(i) + 1.0, 20.0), &before, quiet), None, "better is no breach");
        let fallen = breach(&service(64, |i| noise(i) - 0.5, 20.0), &before, quiet).unwrap();
        assert!(fallen.contains("reward fell"), "{fallen}");
        assert_eq!(breach(&service(31, |_| -9.0, 20.0), &before, quiet), None, "too few");
        let many = service(100_000, |i| noise(i) - 0.02, 20.0);
        assert_eq!(breach(&many, &before, quiet), None, "beyond doubt, but by little");
        assert!(breach(&service(64, |_| 0.0, 20.0), &service(64, |_| 1.0, 20.0), quiet).is_some(), "without any noise");
    }

    /// Goal: a sterner reward model is not taken for a worse policy, nor does it hide one. Method: the same answers half a
    /// deviation lower in its eyes; the same answers' lengths; and a real fall among few scores of the old judge and enough of the
    /// new one.
    #[test]
    fn scores_of_two_judges_are_not_compared() {
        let before = service(200, noise, 20.0);
        let none = Errors::default();
        let sterner = |fall: f64| judged_by("model@b", 64, move |i| noise(i) - fall, 20.0);
        assert_eq!(breach(&sterner(0.5), &before, none), None);
        let longer = Service { lengths: vec![60.0; 64], ..sterner(0.5) };
        assert!(breach(&longer, &before, none).unwrap().contains("tokens"), "what needs no judge is still looked at");
        let both = |a: Service, b: Service| Service {
            scores: [a.scores, b.scores].concat(),
            judges: [a.judges, b.judges].concat(),
            lengths: [a.lengths, b.lengths].concat(),
            thumbs: (0, 0),
            is_full: false,
        };
        let before = both(before, sterner(0.5));
        assert_eq!(
            breach(&both(service(31, |_| -9.0, 20.0), sterner(0.5)), &before, none),
            None,
            "too few of one judge"
        );
        let fallen = breach(&both(service(40, noise, 20.0), sterner(1.0)), &before, none).unwrap();
        assert!(fallen.contains("reward fell") && fallen.contains("model@b"), "{fallen}");
    }

    /// Goal: losses of a tenth of a deviation a version do not go on for ever. Method: nine versions of two hundred rollouts each,
    /// every one that much worse than its parent; each parent alone, and all ancestors, before one judge and before two.
    #[test]
    fn a_slide_is_a_breach_though_no_single_step_is() {
        // The deviation of `noise`.
        let step = 0.1 * 0.29;
        let version = |judge: &str, back: usize| judged_by(judge, 200, move |i| noise(i) + step * back as f64, 20.0);
        let live = version("model@a", 0);
        assert_eq!(breach(&live, &version("model@a", 1), Errors::default()), None);
        let ancestors: Vec<Service> = (2..=9).map(|back| version("model@a", back)).collect();
        assert_eq!(slide(&live, &ancestors[..2]), None, "by little yet");
        let (best, why) = slide(&live, &ancestors).unwrap();
        assert_eq!(best, 7, "the best one, not the nearest");
        assert!(why.contains("reward fell from") && why.contains("little by little"), "{why}");
        let other: Vec<Service> = (2..=9).map(|back| version("model@b", back)).collect();
        assert_eq!(slide(&live, &other), None, "nobody has judged both");
        let level: Vec<Service> = vec![version("model@a", 0); 9];
        assert_eq!(slide(&live, &level), None);
    }

    #[test]
    fn lengths_and_thumbs_need_no_scores() {
        let before = service(64, noise, 20.0);
        let none = Errors::default();
        let unscored = Service { lengths: vec![60.0; 32], ..Service::default() };
        assert!(breach(&unscored, &before, none).unwrap().contains("tokens"));
        let unscored = Service { thumbs: (12, 20), ..Service::default() };
        let liked = Service { thumbs: (40, 0), ..Service::default() };
        assert!(breach(&unscored, &liked, none).unwrap().contains("thumbs"));
        assert!(breach(&service(64, noise, 60.0), &before, none).unwrap().contains("tokens"));
        assert!(breach(&service(64, noise, 6.0), &before, none).is_some());
        assert_eq!(breach(&service(64, noise, 59.0), &before, none), None);
        let with = |thumbs| Service { thumbs, ..before.clone() };
        assert!(breach(&with((20, 44)), &with((60, 4)), none).unwrap().contains("thumbs"));
        assert_eq!(breach(&with((50, 14)), &with((60, 4)), none), None, "not beyond doubt");
        assert_eq!(breach(&with((0, 31)), &with((60, 4)), none), None, "too few");
    }
}
