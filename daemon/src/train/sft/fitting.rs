//! One fine-tuning run: what it says after every epoch, what it keeps, and when it must not write.

use std::{ops::ControlFlow, path::Path};

use policy::{
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, Digest},
    sft::{self, SftProgress, check_after, mean_nll},
    transformer::merged,
};

use super::{
    Args, Data,
    jury::{Best, Jury, Liked},
};
use crate::{
    cli::{progress, say},
    train::{
        base::Base,
        error::{Result, TrainError},
        interrupt::Interrupt,
        output::Output,
        weights,
    },
};

/// Records whose loss is looked at where nothing is held back.
const PROBE: usize = 8;

/// Everything that a run needs between loading and the end.
pub(super) struct Run<'a> {
    pub(super) args: &'a Args,
    pub(super) base: &'a Base,
    pub(super) data: &'a Data,
    pub(super) model: &'a CausalLm,
    /// What the weights came from.
    pub(super) source: &'a Checkpoint,
    /// Who chooses among the epochs; without one, the last is the result.
    pub(super) jury: Option<&'a Jury<'a>>,
    pub(super) output: &'a Output,
    pub(super) interrupt: &'a Interrupt,
}

/// What one epoch has shown so far.
#[derive(Default)]
struct Epoch {
    n_done: usize,
    n_steps: usize,
    loss: f64,
    /// Of those that are over.
    best: Option<Best>,
}

/// What the model said before the first step.
struct Before {
    nll: Option<f64>,
    liked: Option<Liked>,
}

impl Run<'_> {
    /// Trains to the end, or until somebody interrupts.
    pub(super) fn train(&self) -> Result<()> {
        let options = self.args.options();
        let before = self.before()?;
        let bar = progress::bar(0, "fine-tuning");
        let (mut epoch, mut after, mut failure) = (Epoch::default(), before.nll, None);
        let Data { train, mix, .. } = self.data;
        let is_stopped = || self.interrupt.is_raised();
        let last = sft::train_until(self.model, train, mix, &options, &is_stopped, |now| {
            bar.set_length(now.n_steps as u64);
            bar.set_position(now.step as u64);
            bar.set_message(format!("loss {:.3}, {:.0} tokens/s", now.loss, now.tokens_per_s));
            epoch.n_steps += 1;
            epoch.loss += now.loss;
            if is_epoch_end(options.epochs, now) {
                match self.end_epoch(&mut epoch, now) {
                    Ok((line, nll)) => {
                        bar.suspend(|| say::show(&line));
                        after = nll;
                    }
                    Err(error) => {
                        failure = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .map_err(TrainError::run(self.output.path()));
        bar.finish_and_clear();
        let ended = last.and_then(|last| match failure {
            Some(error) => Err(error),
            None if last.step < last.n_steps => Err(self.interrupted(&last)?),
            None => self.finish(&before, after, epoch.best.as_ref()),
        });
        if let (Err(_), Some(best)) = (&ended, &epoch.best) {
            let (n, path) = (best.epoch, best.path.display());
            say::tell(format_args!("the epoch that the reward model likes best so far, {n}, is whole in {path}"));
        }
        ended
    }

    /// Says how the model that training starts from does.
    fn before(&self) -> Result<Before> {
        let nll = self.validation_nll()?;
        let liked = self.jury.map(|jury| jury.ask(&self.base.path)).transpose()?;
        if nll.is_some() || liked.is_some() {
            say::show(format_args!("epoch 0{}", measures(nll, liked)));
        }
        Ok(Before { nll, liked })
    }

    /// Mean negative log-likelihood of the held-back answers, nats a token.
    fn validation_nll(&self) -> Result<Option<f64>> {
        if self.data.validation.is_empty() {
            return Ok(None);
        }
        Ok(Some(mean_nll(self.model, &self.data.validation, self.args.micro_batch_tokens)?))
    }

    /// As [`Run::validation_nll`], after a step: where it is not finite, nothing is worth keeping.
    fn measured(&self, now: &SftProgress) -> Result<Option<f64>> {
        let nll = self.validation_nll()?;
        let train = &self.data.train;
        let (what, shown) = match nll {
            Some(nll) => ("validation loss after it", nll),
            // Somebody may have asked for no validation, but nobody for a broken file.
            None => {
                let probe = mean_nll(self.model, &train[..PROBE.min(train.len())], self.args.micro_batch_tokens)?;
                ("loss after it", probe)
            }
        };
        check_after(now.step, now.n_steps, what, shown).map_err(TrainError::run(self.output.path()))?;
        Ok(nll)
    }

    fn end_epoch(&self, epoch: &mut Epoch, now: &SftProgress) -> Result<(String, Option<f64>)> {
        let n_done = epoch.n_done + 1;
        let nll = self.measured(now)?;
        let train = epoch.loss / epoch.n_steps.max(1) as f64;
        let mut liked = None;
        if self.args.keep_epochs || self.jury.is_some() {
            let path = self.output.at(&format!("epoch-{n_done}"));
            let digest = self.written(&path)?;
            if let Some(jury) = self.jury {
                let now = Best { epoch: n_done, nll, liked: jury.ask(&path)?, path, digest };
                liked = Some(now.liked);
                epoch.best = Some(Best::of(epoch.best.take(), now, self.args.keep_epochs)?);
            }
        }
        let line = format!("epoch {n_done}  step {}  loss {train:.4}{}", now.step, measures(nll, liked));
        *epoch = Epoch { n_done, best: epoch.best.take(), ..Epoch::default() };
        Ok((line, nll))
    }

    /// Writes a whole model: of an adapter, what it and its base are together.
    fn written(&self, path: &Path) -> Result<Digest> {
        let weight_type = self.args.fit.weight_type();
        let mut checkpoint = self.model.to_checkpoint(self.source, weight_type)?;
        if self.model.trunk().adapter().is_some() {
            checkpoint = merged(self.source, &checkpoint)?;
            checkpoint.retype(&self.source.types, weight_type);
        }
        weights::write(&checkpoint, path)
    }

    fn interrupted(&self, last: &SftProgress) -> Result<TrainError> {
        let SftProgress { step, n_steps, .. } = *last;
        if step == 0 {
            return Ok(TrainError::Interrupted { step, n_steps, kept: "nothing was learnt or written".to_owned() });
        }
        self.measured(last)?;
        let path = self.output.free_at(&format!("step-{step}"));
        self.written(&path)?;
        let kept = format!("the weights of that step are whole in {}", path.display());
        Ok(TrainError::Interrupted { step, n_steps, kept })
    }

    fn finish(&self, before: &Before, after: Option<f64>, best: Option<&Best>) -> Result<()> {
        let path = self.output.path();
        let digest = match best {
            None => self.written(path)?,
            Some(best) => {
                best.become_result(path, self.args.keep_epochs)?;
                best.digest
            }
        };
        if let (Some(before), Some(after)) = (before.nll, best.map_or(after, |best| best.nll)) {
            say::show(format_args!("validation loss {before:.4} -> {after:.4}"));
            // A reward model is there because loss and liking part.
            if after > before && best.is_none() {
                say::tell(format_args!(
                    "warning: the model has become WORSE on the records that were held back: loss {before:.4} -> \
                     {after:.4}; a lower --learning-rate or fewer --epochs may help"
                ));
            }
        }
        if let (Some(before), Some(best)) = (before.liked, best) {
            self.tell_choice(before, best);
        }
        let path = path.display();
        say::show(format_args!("wrote {path} (sha256 {digest}); serve it with: honed serve --model {path}"));
        Ok(())
    }

    fn tell_choice(&self, before: Liked, best: &Best) {
        let (n, n_epochs, mean, start) = (best.epoch, self.args.epochs, best.liked.mean, before.mean);
        say::show(format_args!("epoch {n} of {n_epochs} is the result: reward {start:.4} -> {mean:.4}"));
        if mean < start {
            say::tell(format_args!(
                "warning: the reward model likes no epoch as well as the model that training started from: reward \
                 {start:.4}, at best {mean:.4}; other demonstrations, or a lower --learning-rate, may help"
            ));
        }
    }
}

/// What was measured of an epoch, as a part of its line.
fn measures(nll: Option<f64>, liked: Option<Liked>) -> String {
    let nll = nll.map_or(String::new(), |nll| format!("  validation loss {nll:.4}"));
    liked.map_or(nll.clone(), |liked| format!("{nll}  {liked}"))
}

/// No batch reaches across the border of two epochs, so all of them have as many steps.
fn is_epoch_end(epochs: usize, now: &SftProgress) -> bool {
    now.step.is_multiple_of((now.n_steps / epochs).max(1))
}
