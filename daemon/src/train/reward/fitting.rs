//! One run of a reward model: what it shows, and where it can be gone on with.

use std::ops::ControlFlow;

use policy::{optimizer::AdamW, scalar_model::ScalarModel};
use reward::ranking_trainer::{self, Ranking, RankingProgress};
use serde::{Deserialize, Serialize};

use super::{Args, comparisons::Comparisons, options};
use crate::{
    cli::{progress, say},
    train::{
        error::{Result, TrainError},
        interrupt::Interrupt,
        resume::ResumeFile,
    },
};

/// What a run remembers beside its weights.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Place {
    step: usize,
    /// Of the first step, nats.
    first_loss: Option<f64>,
    /// Of the last step, nats.
    last_loss: f64,
}

/// Trains to the end, or until somebody interrupts.
pub(super) fn fit(
    args: &Args,
    model: &ScalarModel,
    data: &Comparisons,
    interrupt: &Interrupt,
    state: &mut ResumeFile,
) -> Result<()> {
    let options = options(args);
    let rankings: Vec<Ranking> = data.train.iter().map(Ranking::from).collect();
    let (resumed, place) = state.restore::<Place>(model.parameters())?.unzip();
    model.rounded().forget();
    let mut place = place.unwrap_or_default();
    let bar = progress::bar(0, "reward model");
    let is_stopped = || interrupt.is_raised();
    let after_step = |now: &RankingProgress, adam: &AdamW| {
        bar.set_length(now.n_steps as u64);
        bar.set_position(now.step as u64);
        bar.set_message(format!("loss {:.3}, accuracy {:.3}", now.report.loss, now.report.accuracy()));
        place.first_loss.get_or_insert(now.report.loss);
        (place.step, place.last_loss) = (now.step, now.report.loss);
        state.write_if_due((now.step, &place), model.parameters(), adam);
        if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let ended = ranking_trainer::train_until(model, &rankings, &options, resumed, &is_stopped, after_step);
    let adam = ended.map_err(TrainError::run(&args.out))?;
    bar.finish_and_clear();
    let (n_steps, Place { step, first_loss, last_loss }) = (options.n_steps(rankings.len()), place);
    if step < n_steps {
        // A reward model without its scale is refused everywhere, so there is no model to keep.
        let kept = match step {
            0 => "nothing was learnt or written".to_owned(),
            _ => {
                state.write((step, &place), model.parameters(), &adam)?;
                format!("no model is whole before it is normalised; --resume goes on from {}", state.path().display())
            }
        };
        return Err(TrainError::Interrupted { step, n_steps, kept });
    }
    say::show(format_args!("{n_steps} steps, loss {:.4} -> {last_loss:.4}", first_loss.unwrap_or(f64::NAN)));
    Ok(())
}
