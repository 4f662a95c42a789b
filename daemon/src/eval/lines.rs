//! The JSON lines: numbers only, in the names of `http/wire/shapes.rs`.

use super::{
    measure::{Measured, mean},
    outcome::{ArmOutcome, SeedOutcome},
    verdict::Verdict,
};
use crate::http::wire::{json, shapes};

const EVAL: &str = "shapes";

/// One line for each model, reward model and shape.
pub(super) fn render(outcomes: &[SeedOutcome], verdicts: &[Verdict], seconds: f64) -> String {
    let mut lines: Vec<String> = outcomes.iter().flat_map(of_seed).collect();
    let seeds: Vec<u64> = outcomes.iter().map(|outcome| outcome.seed).collect();
    lines.extend(verdicts.iter().map(|verdict| {
        let Verdict { shape, criterion, held, .. } = verdict;
        let seeds = seeds.clone();
        json(&shapes::Shape { eval: EVAL, kind: "shape", shape, criterion, held: *held, seeds, seconds })
    }));
    lines.join("\n") + "\n"
}

fn of_seed(seed: &SeedOutcome) -> Vec<String> {
    let starts = [
        ("base", &seed.base),
        ("sft-unmixed", &seed.unmixed),
        ("sft", &seed.sft),
        ("base-wide", &seed.large_base),
        ("sft-wide", &seed.large_sft),
    ];
    let mut lines: Vec<String> = starts.iter().map(|(name, measured)| json(&model(seed, name, measured))).collect();
    lines.extend(seed.judges.iter().map(|judge| {
        json(&shapes::RewardModel {
            eval: EVAL,
            kind: "reward_model",
            seed: seed.seed,
            reward_prompts: judge.n_prompts,
            pair_accuracy: judge.accuracy,
            pair_accuracy_ceiling: seed.ceiling,
        })
    }));
    lines.extend(seed.arms.iter().map(|arm| json(&tuned(seed, arm))));
    lines
}

fn tuned(seed: &SeedOutcome, outcome: &ArmOutcome) -> shapes::Model {
    let points = outcome.curve.iter();
    shapes::Model {
        reward_prompts: Some(seed.judges[outcome.arm.judge as usize].n_prompts),
        kl_coef: Some(outcome.arm.kl_coef),
        ptx: Some(outcome.arm.ptx),
        rounds: points.map(|p| shapes::Point { kl: p.kl, score: p.score, gold: p.gold }).collect(),
        ..model(seed, "ppo", &outcome.measured)
    }
}

fn model(seed: &SeedOutcome, name: &'static str, measured: &Measured) -> shapes::Model {
    let gold = measured.gold();
    let squares: Vec<f64> = measured.golds.iter().map(|g| (g - gold) * (g - gold)).collect();
    let win = measured.against(&seed.sft);
    shapes::Model {
        eval: EVAL,
        kind: "model",
        seed: seed.seed,
        model: name,
        reward_prompts: None,
        kl_coef: None,
        ptx: None,
        gold,
        gold_stderr: (mean(&squares) / measured.golds.len() as f64).sqrt(),
        score: measured.score,
        kl: measured.kl,
        length: measured.length,
        eos_rate: measured.eos_rate,
        pretraining_nll: measured.nll,
        win_rate: win.rate,
        win_rate_low: win.ci95.0,
        win_rate_high: win.ci95.1,
        rounds: Vec::new(),
    }
}
