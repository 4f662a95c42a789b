use super::*;
use crate::eval::{
    arm::{self, Arm},
    measure::Measured,
    outcome::{ArmOutcome, JudgeOutcome},
};

fn measured(gold: f64, nll: f64) -> Measured {
    // Some spread, so that no interval has width zero.
    let golds = (0..200).map(|i| gold + if i % 2 == 0 { 0.1 } else { -0.1 }).collect();
    Measured { golds, score: Some(1.0), kl: 1.0, length: 4.0, eos_rate: 1.0, nll }
}

/// An outcome with every shape in it.
fn textbook() -> SeedOutcome {
    let sft = measured(1.5, 1.5);
    let of = |arm: Arm| {
        let measured = match arm {
            _ if arm == PTX => measured(2.4, 1.5),
            _ if arm == PLAIN => measured(2.4, 2.0),
            _ if arm == UNLEASHED => measured(0.5, 2.0),
            _ if arm.kl_coef == KL_COEFS[2] => measured(2.4, 2.0),
            _ => measured(2.0, 2.0),
        };
        ArmOutcome { arm, win: measured.against(&sft), measured, curve: Vec::new() }
    };
    let judge = |n_prompts, accuracy| JudgeOutcome { n_prompts, accuracy };
    SeedOutcome {
        seed: 1,
        base: measured(-2.0, 1.5),
        unmixed: measured(1.5, 5.0),
        large_base: measured(-2.0, 1.4),
        large_sft: measured(1.5, 1.4),
        judges: vec![judge(150, 0.6), judge(1000, 0.7), judge(6000, 0.8)],
        ceiling: 0.84,
        arms: arm::all().into_iter().map(of).collect(),
        sft,
    }
}

fn held(change: impl FnOnce(&mut SeedOutcome)) -> Vec<bool> {
    let mut other = textbook();
    change(&mut other);
    all(&[textbook(), other]).iter().map(|verdict| verdict.held).collect()
}

fn set(seed: &mut SeedOutcome, arm: Arm, measured: Measured) {
    let win = measured.against(&seed.sft);
    let outcome = seed.arms.iter_mut().find(|outcome| outcome.arm == arm).unwrap();
    (outcome.measured, outcome.win) = (measured, win);
}

#[test]
fn the_textbook_has_all_shapes() {
    assert_eq!(held(|_| ()), [true; 6]);
}

/// Goal: each verdict can fail. Method: one number of one seed is changed, and only its own shape must fall.
#[test]
fn one_seed_that_does_not_show_a_shape_is_enough() {
    let missing = |change: fn(&mut SeedOutcome)| {
        let held = held(change);
        held.iter().zip(1..).filter(|(held, _)| !**held).map(|(_, number)| number).collect::<Vec<i32>>()
    };
    assert_eq!(missing(|s| s.judges[1].accuracy = 0.59), [1]);
    assert_eq!(missing(|s| (s.judges[1].accuracy, s.judges[2].accuracy) = (0.62, 0.64)), [1]);
    assert_eq!(missing(|s| set(s, UNLEASHED, measured(1.2, 2.0))), [3]);
    assert_eq!(missing(|s| set(s, swept(0.0), measured(2.35, 2.0))), [4]);
    assert_eq!(missing(|s| set(s, PTX, measured(2.4, 1.9))), [5]);
    assert_eq!(missing(|s| set(s, PTX, measured(2.2, 1.5))), [5]);
    assert_eq!(missing(|s| s.large_base = measured(2.4, 1.4)), [6]);
    assert_eq!(missing(|s| set(s, PLAIN, measured(1.5, 2.0))), [2]);
}
