//! From evidence to a verdict.

use std::collections::BTreeMap;

use super::{
    comparison::Comparison,
    drift::{self, Rung},
    names,
};
use crate::{
    parity::{Parity, ParityLimits},
    rollout_log::VersionRow,
    update::RoundStats,
};

/// KL to version 0 that refuses a candidate, in multiples of `ppo.kl_target`.
const KL_TARGET_MULTIPLE: f64 = 10.0;
/// [`super::alignment`] below this refuses: of updates that did nothing at all, one in some thousand would be.
const ALIGNMENT_MIN: f64 = -3.3;
/// [`drift::worst`] below this refuses; stricter than one trial's interval, because many sums are looked at.
const DRIFT_MIN: f64 = -3.0;

/// What a failed check of the second kind does (`ppo.gate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuses.
    Strict,
    /// Is written down.
    Observe,
    /// Is not made.
    Off,
}

impl Mode {
    /// As configured.
    #[must_use]
    pub fn of(config: &config::Ppo) -> Mode {
        match config.gate.as_str() {
            "observe" => Mode::Observe,
            "off" => Mode::Off,
            _ => Mode::Strict,
        }
    }
}

/// What the gate looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Weights of the candidate that are not finite, in number of tensors.
    pub n_broken_tensors: usize,
    /// What the replay found.
    pub parity: Parity,
    /// How far the engines may be apart.
    pub parity_limits: ParityLimits,
    /// The round's numbers.
    pub stats: &'a RoundStats,
    /// [`super::alignment`] of the update with its own data.
    pub alignment: Option<f64>,
    /// What the trial found; `None` without questions.
    pub trial: Option<&'a Comparison>,
    /// Trials of the live version and its ancestors, newest first.
    pub lineage: &'a [Rung],
    /// Rise of the loss on pretraining text over version 0's, nats a token; `None` without such text.
    pub ptx_rise: Option<f64>,
}

/// What the gate says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Why the candidate is refused; empty when it may serve.
    pub refusals: Vec<String>,
    /// What would have refused it under `ppo.gate = "strict"`.
    pub observed: Vec<String>,
    /// What was measured, for the version's row.
    pub numbers: BTreeMap<String, f64>,
}

impl Verdict {
    /// Whether the candidate may serve.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.refusals.is_empty()
    }

    /// Why it is refused; or, where it may serve, what would have refused it, as its row says that ([`VersionRow::OBSERVED`]).
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match (self.is_pass(), self.observed.is_empty()) {
            (false, _) => Some(self.refusals.join("; ")),
            (true, false) => Some(format!("{}{}", VersionRow::OBSERVED, self.observed.join("; "))),
            (true, true) => None,
        }
    }

    /// Of weights that no engine need look at: this many of their tensors are not finite.
    #[must_use]
    pub fn broken(n_broken_tensors: usize) -> Verdict {
        let mut verdict = Verdict { refusals: vec![not_finite(n_broken_tensors)], ..Verdict::default() };
        verdict.summarise();
        verdict
    }

    /// With the failed checks of the second kind, as the mode takes them.
    fn conclude(mut self, doubts: Vec<String>, mode: Mode) -> Verdict {
        let list = if mode == Mode::Observe { &mut self.observed } else { &mut self.refusals };
        list.extend(doubts);
        self.summarise();
        self
    }

    /// Brings the numbers that count refusals and doubts up to date.
    pub(crate) fn summarise(&mut self) {
        let passed = f64::from(u8::from(self.is_pass()));
        self.numbers.insert("gate/pass".to_string(), passed);
        self.numbers.insert("gate/observed".to_string(), self.observed.len() as f64);
    }

    /// Written so that NaN fails.
    fn within(list: &mut Vec<String>, what: &str, value: f64, limit: f64) {
        if !(value.is_finite() && value <= limit) {
            list.push(format!("{what}: expected at most {limit}, got {value}"));
        }
    }

    /// Written so that NaN fails.
    fn at_least(list: &mut Vec<String>, what: &str, value: f64, limit: f64) {
        if !(value.is_finite() && value >= limit) {
            list.push(format!("{what}: expected at least {limit:.4}, got {value:.4}"));
        }
    }
}

/// Judges a candidate.
#[must_use]
pub fn judge(evidence: &Evidence<'_>, config: &config::Ppo) -> Verdict {
    let mut verdict = Verdict::default();
    is_what_it_claims(evidence, &mut verdict);
    let mut doubts = Vec::new();
    let mode = Mode::of(config);
    if mode != Mode::Off {
        round_is_sound(evidence, config, &mut doubts);
        if evidence.alignment.is_none() {
            verdict.numbers.insert(names::NO_ALIGNMENT.to_string(), 1.0);
        }
        if evidence.trial.is_none_or(|trial| trial.reward.is_none() || trial.judge.is_none()) {
            verdict.numbers.insert(names::NO_REWARD.to_string(), 1.0);
        }
        if let Some(trial) = evidence.trial {
            manner_is_kept(trial, config, &mut doubts);
            reward_is_kept(trial, evidence.lineage, &mut doubts, &mut verdict.numbers);
        }
    }
    verdict.conclude(doubts, mode)
}

/// Judges a candidate that no update of ours made: by its trial, where one could be held.
#[must_use]
pub fn judge_stranger(trial: Option<&Comparison>, lineage: &[Rung], config: &config::Ppo) -> Verdict {
    let (mut verdict, mut doubts, mode) = (Verdict::default(), Vec::new(), Mode::of(config));
    if let (Some(trial), true) = (trial, mode != Mode::Off) {
        manner_is_kept(trial, config, &mut doubts);
        reward_is_kept(trial, lineage, &mut doubts, &mut verdict.numbers);
        if let Some(reward) = &trial.reward {
            let interval = [(names::REWARD_LOWER, reward.lower()), (names::REWARD_UPPER, reward.upper())];
            verdict.numbers.extend(interval.map(|(name, end)| (name.to_string(), end)));
        }
    }
    verdict.conclude(doubts, mode)
}

fn not_finite(n_broken_tensors: usize) -> String {
    format!("{n_broken_tensors} tensors hold weights that are not finite")
}

fn is_what_it_claims(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let Evidence { n_broken_tensors, parity, parity_limits, .. } = *evidence;
    if n_broken_tensors > 0 {
        verdict.refusals.push(not_finite(n_broken_tensors));
    }
    let what = "log-prob difference between engine and trainer";
    Verdict::within(&mut verdict.refusals, what, parity.max, parity_limits.hard);
    let numbers = [
        ("parity/tokens", parity.n_tokens as f64),
        ("parity/max", parity.max),
        ("parity/mean", parity.mean),
        ("parity/limit", parity_limits.hard),
    ];
    let kl = evidence.stats.policy_final_kl_to_reference;
    let measured = [
        ("gate/alignment", evidence.alignment),
        ("gate/objective_kl", Some(kl).filter(|kl| kl.is_finite())),
        ("gate/ptx_rise", evidence.ptx_rise),
    ];
    let measured = measured.into_iter().filter_map(|(name, value)| Some((name, value?)));
    verdict.numbers.extend(numbers.into_iter().chain(measured).map(|(name, value)| (name.to_string(), value)));
}

fn round_is_sound(evidence: &Evidence<'_>, config: &config::Ppo, doubts: &mut Vec<String>) {
    let stats = evidence.stats;
    let skip_kl = crate::guard::limit(config.skip_kl).min(f64::MAX);
    Verdict::within(doubts, "KL to the live policy, nats per token", stats.policy_final_kl_k3, skip_kl);
    let of_target = if config.kl_adaptive { KL_TARGET_MULTIPLE * config.kl_target } else { f64::MAX };
    let budget = crate::guard::limit(config.kl_budget).min(f64::MAX);
    let what = match budget < of_target {
        true => "KL to version 0, nats per episode (ppo.kl_budget)",
        false => "KL to version 0, nats per episode",
    };
    Verdict::within(doubts, what, stats.policy_final_kl_to_reference, of_target.min(budget));
    Verdict::within(doubts, "objective", stats.objective_rlhf_reward, f64::MAX);
    if evidence.parity.n_tokens == 0 {
        doubts
            .push("engine and trainer were not compared: no prompt of the round leaves room for an answer".to_string());
    }
    if let Some(alignment) = evidence.alignment {
        let what = "the update made better-paid answers less likely (t of their covariance)";
        Verdict::at_least(doubts, what, alignment, ALIGNMENT_MIN);
    }
    if let (Some(rise), true) = (evidence.ptx_rise, config.gate_ptx_rise > 0.0) {
        Verdict::within(doubts, "rise of the loss on pretraining text, nats a token", rise, config.gate_ptx_rise);
    }
}

fn manner_is_kept(trial: &Comparison, config: &config::Ppo, doubts: &mut Vec<String>) {
    let Comparison { candidate, live, .. } = trial;
    if config.gate_length_factor > 0.0 {
        // A token more on both sides: from one token to two is no collapse.
        let factor = (candidate.length + 1.0) / (live.length + 1.0);
        let what = "length of the answers in the trial, times the live version's";
        Verdict::within(doubts, what, factor.max(1.0 / factor), config.gate_length_factor);
    }
    let lost = live.eos_rate - candidate.eos_rate;
    Verdict::within(doubts, "share of answers in the trial that no longer end", lost, config.gate_eos_drop);
    let what = "distinct pairs of tokens in the trial's answers";
    Verdict::at_least(doubts, what, candidate.distinct_2, config.gate_distinct * live.distinct_2);
}

fn reward_is_kept(trial: &Comparison, lineage: &[Rung], doubts: &mut Vec<String>, numbers: &mut BTreeMap<String, f64>) {
    let Comparison { candidate, live, asked, step_seconds, reward, judge } = trial;
    let mut note = |name: &str, value: f64| {
        numbers.insert(name.to_string(), value);
    };
    note("gate/prompts", candidate.n as f64);
    let of_prompts = [
        (names::PROMPTS, asked.n_prompts),
        (names::PROMPTS_HELD_OUT, asked.n_held_out),
        (names::PROMPTS_LEARNT, asked.n_learnt),
    ];
    of_prompts.into_iter().for_each(|(name, n)| note(name, n as f64));
    for (who, manner) in [("candidate", candidate), ("live", live)] {
        note(&format!("gate/length_{who}"), manner.length);
        note(&format!("gate/eos_rate_{who}"), manner.eos_rate);
        note(&format!("gate/distinct_2_{who}"), manner.distinct_2);
    }
    for (name, seconds) in names::STEP_SECONDS.into_iter().zip(step_seconds.iter().flatten()) {
        note(name, *seconds);
    }
    let Some((reward, judge)) = reward.zip(judge.as_ref()) else {
        return;
    };
    let rung = Rung { judge: judge.clone(), mean: reward.mean, standard_error: reward.standard_error };
    let rungs: Vec<Rung> = std::iter::once(rung).chain(lineage.iter().cloned()).collect();
    let drift = drift::worst(&rungs);
    note(names::REWARD_DIFFERENCE, reward.mean);
    note(names::REWARD_DIFFERENCE_ERROR, reward.standard_error);
    note(&format!("{}{judge}", names::JUDGE), 1.0);
    note("gate/drift", drift);
    let interval = format!("{:.4} to {:.4}", reward.lower(), reward.upper());
    if !reward.mean.is_finite() || reward.upper() < 0.0 {
        doubts.push(format!("reward on {asked} is lower than the live version's by {interval}"));
    }
    let what = "reward added up along the lineage, in standard errors";
    Verdict::at_least(doubts, what, drift, DRIFT_MIN);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Asked, Manner, PairedDifference};

    const LIMITS: ParityLimits = ParityLimits { expected: 2e-3, hard: 2e-2 };

    /// Everything that a test may break.
    struct Case {
        parity: Parity,
        stats: RoundStats,
        config: config::Ppo,
        n_broken_tensors: usize,
        alignment: Option<f64>,
        trial: Comparison,
        lineage: Vec<Rung>,
        ptx_rise: Option<f64>,
    }

    fn verdict(change: impl FnOnce(&mut Case)) -> Verdict {
        let manner = Manner { n: 32, length: 20.0, eos_rate: 0.9, distinct_2: 0.5 };
        let mut case = Case {
            parity: Parity { n_tokens: 9, max: 1e-3, mean: 1e-4 },
            stats: RoundStats {
                objective_kl: 0.0,
                policy_final_kl_to_reference: 100.0,
                policy_final_kl_k3: 0.01,
                ..RoundStats::default()
            },
            config: config::Config::default().ppo,
            n_broken_tensors: 0,
            alignment: Some(1.0),
            trial: Comparison {
                candidate: manner.clone(),
                live: manner,
                asked: Asked { n_prompts: 32, n_held_out: 32, n_learnt: 0 },
                step_seconds: None,
                reward: Some(PairedDifference { n: 32, mean: -0.1, standard_error: 0.1 }),
                judge: Some("model@ab".to_owned()),
            },
            lineage: Vec::new(),
            ptx_rise: Some(0.1),
        };
        change(&mut case);
        let evidence = Evidence {
            n_broken_tensors: case.n_broken_tensors,
            parity: case.parity,
            parity_limits: LIMITS,
            stats: &case.stats,
            alignment: case.alignment,
            trial: Some(&case.trial),
            lineage: &case.lineage,
            ptx_rise: case.ptx_rise,
        };
        judge(&evidence, &case.config)
    }

    #[test]
    fn a_healthy_candidate_passes_whatever_the_kl_under_a_fixed_beta() {
        let verdict = verdict(|_| ());
        assert_eq!(verdict.refusals, Vec::<String>::new());
        assert_eq!((verdict.numbers["gate/pass"], verdict.numbers["parity/max"]), (1.0, 1e-3));
        assert_eq!(verdict.numbers["gate/objective_kl"], 100.0, "the candidate's, not that of where the round began");
        assert_eq!(verdict.numbers[names::REWARD_DIFFERENCE], -0.1, "a little worse may be chance");
    }

    #[test]
    fn a_limit_of_0_is_none_but_what_is_no_number_is_refused() {
        let with = |kl| {
            verdict(|case| {
                (case.config.skip_kl, case.stats.policy_final_kl_k3) = (0.0, kl);
            })
        };
        assert!(with(0.5).is_pass());
        assert!(!with(f64::INFINITY).is_pass() && !with(f64::NAN).is_pass());
    }

    #[test]
    fn of_two_limits_of_the_kl_the_tighter_one_is_named() {
        // The candidate is 100 nats away.
        let with = |kl_budget, kl_target| {
            let verdict = verdict(|case| {
                (case.config.kl_budget, case.config.kl_adaptive, case.config.kl_target) = (kl_budget, true, kl_target);
            });
            assert!(verdict.refusals.len() <= 1, "{:?}", verdict.refusals);
            verdict.refusals.first().map(|why| why.contains("ppo.kl_budget"))
        };
        assert_eq!((with(90.0, 9.5), with(90.0, 8.5)), (Some(true), Some(false)));
        assert_eq!((with(101.0, 11.0), with(0.0, 11.0), with(0.0, 9.5)), (None, None, Some(false)));
    }

    fn rung(judge: &str) -> Rung {
        Rung { judge: judge.to_owned(), mean: -0.1, standard_error: 0.1 }
    }

    /// What breaks one check.
    type Fault = fn(&mut Case);

    const CHECKS: [(&str, Fault); 14] = [
        ("live policy", |case| case.stats.policy_final_kl_k3 = 1.01 * case.config.skip_kl),
        ("version 0", |case| case.config.kl_adaptive = true),
        ("version 0", |case| case.stats.policy_final_kl_to_reference = f64::INFINITY),
        ("(ppo.kl_budget): expected at most 99,", |case| case.config.kl_budget = 99.0),
        ("objective", |case| case.stats.objective_rlhf_reward = f64::NAN),
        ("not compared", |case| case.parity = Parity::default()),
        ("less likely", |case| case.alignment = Some(-3.4)),
        ("pretraining", |case| case.ptx_rise = Some(0.51)),
        ("length", |case| case.trial.candidate.length = 42.0),
        ("length", |case| case.trial.candidate.length = 9.0),
        ("no longer end", |case| case.trial.candidate.eos_rate = 0.64),
        ("distinct", |case| case.trial.candidate.distinct_2 = 0.24),
        ("held-out", |case| case.trial.reward = Some(PairedDifference { n: 32, mean: -0.2, standard_error: 0.1 })),
        ("lineage", |case| case.lineage = vec![rung("model@ab"); 9]),
    ];

    #[test]
    fn each_check_refuses_alone_and_not_a_number_is_a_refusal() {
        for (word, breaks) in CHECKS {
            let verdict = verdict(breaks);
            assert_eq!((verdict.refusals.len(), verdict.is_pass()), (1, false), "{word}: {:?}", verdict.refusals);
            assert!(verdict.refusals[0].contains(word), "{word}: {:?}", verdict.refusals);
            assert_eq!(verdict.reason().as_ref(), Some(&verdict.refusals[0]));
        }
        let nan =
            verdict(|case| case.trial.reward = Some(PairedDifference { n: 9, mean: f64::NAN, standard_error: 1.0 }));
        assert!(!nan.is_pass());
    }

    /// Goal: what there was nothing to check with is no refusal, and the report says so.
    #[test]
    fn a_missing_alignment_is_reported() {
        let with = |alignment, mode: &str| {
            let verdict = verdict(|case| (case.alignment, case.config.gate) = (alignment, mode.to_string()));
            (verdict.is_pass(), verdict.numbers.get(names::NO_ALIGNMENT).copied())
        };
        assert_eq!(with(None, "strict"), (true, Some(1.0)));
        assert_eq!(with(None, "off"), (true, None), "nobody looked for it");
        assert_eq!(with(Some(1.0), "strict"), (true, None));
    }

    #[test]
    fn a_refusal_says_what_was_asked() {
        let said = |n_prompts, n_held_out, n_learnt| {
            let verdict = verdict(|case| {
                case.trial.asked = Asked { n_prompts, n_held_out, n_learnt };
                case.trial.reward = Some(PairedDifference { n: 9, mean: -1.0, standard_error: 0.1 });
            });
            verdict.refusals[0].split(" is lower").next().unwrap().to_string()
        };
        assert_eq!(said(32, 32, 0), "reward on 32 held-out prompts");
        assert_eq!(said(32, 0, 0), "reward on 32 prompts of recent traffic");
        assert_eq!(said(1, 0, 1), "reward on 1 prompt (0 held out, 1 that the update had learnt from)");
        assert_eq!(said(32, 16, 4), "reward on 32 prompts (16 held out, 4 that the update had learnt from)");
    }

    #[test]
    fn a_lineage_that_another_judge_saw_refuses_nobody_and_who_judged_is_kept() {
        let verdict = verdict(|case| case.lineage = vec![rung("model@cd"); 9]);
        assert!(verdict.is_pass(), "{:?}", verdict.refusals);
        assert_eq!((verdict.numbers["gate/drift"], verdict.numbers["gate/judge/model@ab"]), (-1.0, 1.0));
    }

    #[test]
    fn observing_writes_down_and_off_does_not_look() {
        for (word, breaks) in CHECKS {
            let observed = verdict(|case| {
                breaks(case);
                case.config.gate = "observe".to_string();
            });
            assert!(observed.is_pass() && observed.observed.len() == 1 && observed.observed[0].contains(word));
            assert_eq!(observed.reason(), Some(format!("the gate only observed: {}", observed.observed[0])));
            let off = verdict(|case| {
                breaks(case);
                case.config.gate = "off".to_string();
            });
            assert_eq!((off.is_pass(), off.reason()), (true, None));
        }
    }

    #[test]
    fn broken_weights_are_refused_in_every_mode() {
        const BREAKS: [Fault; 3] =
            [|case| case.n_broken_tensors = 2, |case| case.parity.max = 0.021, |case| case.parity.max = f64::NAN];
        for mode in ["strict", "observe", "off"] {
            for breaks in BREAKS {
                let verdict = verdict(|case| {
                    breaks(case);
                    case.config.gate = mode.to_string();
                });
                assert_eq!((verdict.is_pass(), verdict.refusals.len()), (false, 1), "{mode}: {:?}", verdict.refusals);
            }
        }
    }
}
