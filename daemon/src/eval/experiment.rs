//! The whole experiment: every seed through every stage, stage by stage, as many trainings at once as there are cores.

use super::{
    Result,
    arm::{self, Arm},
    crew,
    judge::{self, Judge, Labels},
    measure::{Exam, Measured},
    outcome::{ArmOutcome, JudgeOutcome, SeedOutcome},
    progress::Progress,
    recipe::{LARGE, Recipe, SMALL},
    start::{self, Start},
};

/// Trainings of one start: the base model, and two supervised ones.
const TRAININGS_OF_START: usize = 3;

/// One seed between the stages.
struct Site {
    seed: u64,
    small: Start,
    large: Start,
    exam: Exam,
}

/// Runs it.
pub(super) fn run(seeds: &[u64], recipe: &Recipe) -> Result<Vec<SeedOutcome>> {
    let per_seed = 2 * TRAININGS_OF_START + recipe.rankings.len() + arm::all().len();
    let progress = Progress::new(seeds.len() * per_seed);
    let sites = starts(seeds, recipe, &progress)?;
    let labels = crew::all(sites.iter().collect(), |site| judge::label(site.seed, recipe, &site.small))?;
    let judges = judges(&sites, &labels, recipe, &progress)?;
    let bases = crew::all(sites.iter().collect(), measure_starts)?;
    let arms = arms(&sites, &judges, &bases, recipe, &progress)?;
    progress.finish();
    let seeds = sites.iter().zip(&labels).zip(judges).zip(bases).zip(arms);
    let outcomes = seeds.map(|((((site, labels), judges), starts), arms)| {
        let [base, unmixed, sft, large_base, large_sft] = starts;
        let judges = judges.iter().map(|j| JudgeOutcome { n_prompts: j.n_prompts, accuracy: j.accuracy }).collect();
        let (seed, ceiling) = (site.seed, labels.ceiling);
        SeedOutcome { seed, base, unmixed, sft, large_base, large_sft, judges, ceiling, arms }
    });
    Ok(outcomes.collect())
}

fn starts(seeds: &[u64], recipe: &Recipe, progress: &Progress) -> Result<Vec<Site>> {
    // The large ones first, for they take longest.
    let jobs: Vec<_> = [LARGE, SMALL].iter().flat_map(|size| seeds.iter().map(move |seed| (*seed, *size))).collect();
    let mut larges = crew::all(jobs, |(seed, size)| start::train(seed, size, recipe, progress))?;
    let smalls = larges.split_off(seeds.len());
    let sites = seeds.iter().zip(smalls).zip(larges);
    Ok(sites.map(|((seed, small), large)| Site { seed: *seed, small, large, exam: Exam::new(*seed, recipe) }).collect())
}

fn judges(sites: &[Site], labels: &[Labels], recipe: &Recipe, progress: &Progress) -> Result<Vec<Vec<Judge>>> {
    let jobs: Vec<_> =
        sites.iter().zip(labels).flat_map(|(site, labels)| recipe.rankings.map(|n| (site, labels, n))).collect();
    let mut judges = crew::all(jobs, |(site, labels, n)| {
        let judge = judge::train(site.seed, n, &site.small, labels, progress)?;
        progress.line(&format!("seed {}: reward model of {n} prompts, accuracy {:.3}", site.seed, judge.accuracy));
        Ok(judge)
    })?
    .into_iter();
    Ok(sites.iter().map(|_| judges.by_ref().take(recipe.rankings.len()).collect()).collect())
}

fn measure_starts(site: &Site) -> Result<[Measured; 5]> {
    let Site { small, large, exam, .. } = site;
    let measure = |model| exam.measure(model, &small.sft, None);
    Ok([
        measure(&small.base)?,
        measure(&small.unmixed)?,
        measure(&small.sft)?,
        measure(&large.base)?,
        measure(&large.sft)?,
    ])
}

fn arms(
    sites: &[Site],
    judges: &[Vec<Judge>],
    bases: &[[Measured; 5]],
    recipe: &Recipe,
    progress: &Progress,
) -> Result<Vec<Vec<ArmOutcome>>> {
    let seeds = sites.iter().zip(judges).zip(bases);
    let jobs: Vec<(Arm, _)> = seeds.flat_map(|seed| arm::all().into_iter().map(move |arm| (arm, seed))).collect();
    let mut outcomes = crew::all(jobs, |(arm, ((site, judges), [_, _, sft, ..]))| {
        let judge = &judges[arm.judge as usize];
        let tuned = arm::tune(site.seed, arm, recipe, &site.small, judge, progress)?;
        let measured = site.exam.measure(&tuned.policy, &site.small.sft, Some(&judge.model))?;
        progress.line(&format!(
            "seed {}: PPO with a reward model of {} prompts, β {}{}: gold {:.2}, KL {:.1}",
            site.seed,
            judge.n_prompts,
            arm.kl_coef,
            if arm.ptx { ", ptx" } else { "" },
            measured.gold(),
            measured.kl
        ));
        Ok(ArmOutcome { arm, win: measured.against(sft), measured, curve: tuned.curve })
    })?
    .into_iter();
    Ok(sites.iter().map(|_| outcomes.by_ref().take(arm::all().len()).collect()).collect())
}
