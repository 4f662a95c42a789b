//! One fine-tuning run: what it says after every epoch, what it keeps, and when it must not write.

use std::{
    io::ErrorKind,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use policy::{
    causal_lm::CausalLm,
    checkpoint::{Checkpoint, Digest, digest},
    optimizer::AdamW,
    sft::{self, SftProgress, check_after, mean_nll},
    transformer::merged,
};

use super::{
    Args, Data,
    jury::{Best, Jury, Liked, become_result},
    place::{Before, Epoch, Place},
};
use crate::{
    cli::{progress, say},
    train::{
        base::Base,
        error::{Result, TrainError},
        interrupt::Interrupt,
        output::Output,
        resume::ResumeFile,
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

impl Run<'_> {
    /// Trains to the end, or until somebody interrupts.
    pub(super) fn train(&self, state: &mut ResumeFile) -> Result<()> {
        let resumed = state.restore(self.model.parameters())?;
        self.model.rounded().forget();
        let (resumed, place) = resumed.unzip();
        let mut place: Place = match place {
            Some(place) => place,
            None => {
                let before = self.before()?;
                Place { after: before.nll, before, epoch: Epoch::default() }
            }
        };
        let bar = progress::bar(0, "fine-tuning");
        let mut failure = None;
        let Data { train, mix, .. } = self.data;
        let is_stopped = || self.interrupt.is_raised();
        let ended =
            sft::train_until(self.model, train, mix, &self.args.options(), resumed, &is_stopped, |now, adam| {
                bar.set_length(now.n_steps as u64);
                bar.set_position(now.step as u64);
                bar.set_message(format!("loss {:.3}, {:.0} tokens/s", now.loss, now.tokens_per_s));
                let show = |line: &str| bar.suspend(|| say::show(line));
                if let Err(error) = self.after_step(&mut place, (now, adam), state, &show) {
                    failure = Some(error);
                    return ControlFlow::Break(());
                }
                if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(TrainError::run(self.output.path()));
        bar.finish_and_clear();
        let ended = ended.and_then(|(last, adam)| match failure {
            Some(error) => Err(error),
            None if last.step < last.n_steps => Err(self.interrupted(&last, &place, &adam, state)?),
            None => self.finish(&place),
        });
        match (&ended, &place.epoch.best) {
            (Err(_), Some(best)) => {
                let (n, path) = (best.epoch, self.epoch_file(best.epoch));
                say::tell(format_args!(
                    "the epoch that the reward model likes best so far, {n}, is whole in {}",
                    path.display()
                ));
            }
            (Ok(()), _) => state.remove(),
            _ => {}
        }
        ended
    }

    /// Counts a step; at the end of an epoch, measures; from time to time, writes down where the run is.
    fn after_step(
        &self,
        place: &mut Place,
        (now, adam): (&SftProgress, &AdamW),
        state: &mut ResumeFile,
        show: &dyn Fn(&str),
    ) -> Result<()> {
        place.epoch.n_steps += 1;
        place.epoch.loss += now.loss;
        if is_epoch_end(self.args.epochs, now) {
            let (line, nll, other) = self.end_epoch(&mut place.epoch, now)?;
            place.after = nll;
            let at = (now.step, &*place);
            // An epoch's file that nobody remembers would be in the way of the run that goes on; one that somebody remembers must be
            // there.
            if self.writes_epochs() {
                state.write_or_tell(at, self.model.parameters(), adam);
            }
            other.map_or(Ok(()), |other| self.let_go(other.epoch))?;
            show(&line);
        }
        state.write_if_due((now.step, &*place), self.model.parameters(), adam);
        Ok(())
    }

    fn writes_epochs(&self) -> bool {
        self.args.keep_epochs || self.jury.is_some()
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

    /// Its line, the loss on what is held back, and the epoch that is not the best so far.
    fn end_epoch(&self, epoch: &mut Epoch, now: &SftProgress) -> Result<(String, Option<f64>, Option<Best>)> {
        let n_done = epoch.n_done + 1;
        let nll = self.measured(now)?;
        let train = epoch.loss / epoch.n_steps.max(1) as f64;
        let (mut liked, mut worse) = (None, None);
        if self.writes_epochs() {
            let path = self.epoch_file(n_done);
            self.written(&path)?;
            if let Some(jury) = self.jury {
                let now = Best { epoch: n_done, nll, liked: jury.ask(&path)? };
                liked = Some(now.liked);
                let (best, other) = Best::of(epoch.best.take(), now);
                (epoch.best, worse) = (Some(best), other);
            }
        }
        let line = format!("epoch {n_done}  step {}  loss {train:.4}{}", now.step, measures(nll, liked));
        *epoch = Epoch { n_done, best: epoch.best.take(), ..Epoch::default() };
        Ok((line, nll, worse))
    }

    /// Where the weights of an epoch lie.
    fn epoch_file(&self, epoch: usize) -> PathBuf {
        self.output.at(&format!("epoch-{epoch}"))
    }

    /// The weights of an epoch that is not the best go, unless all are kept. They may be gone already, where a run was killed
    /// before it wrote down that they were.
    fn let_go(&self, epoch: usize) -> Result<()> {
        let path = self.epoch_file(epoch);
        if self.args.keep_epochs {
            return Ok(());
        }
        std::fs::remove_file(&path).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(TrainError::io(path)(error)),
        })
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

    fn interrupted(
        &self,
        last: &SftProgress,
        place: &Place,
        adam: &AdamW,
        state: &mut ResumeFile,
    ) -> Result<TrainError> {
        let SftProgress { step, n_steps, .. } = *last;
        if step == 0 {
            return Ok(TrainError::Interrupted { step, n_steps, kept: "nothing was learnt or written".to_owned() });
        }
        self.measured(last)?;
        let path = self.output.free_at(&format!("step-{step}"));
        self.written(&path)?;
        state.write((step, place), self.model.parameters(), adam)?;
        let kept = format!(
            "the weights of that step are whole in {}, and --resume goes on from {}",
            path.display(),
            state.path().display()
        );
        Ok(TrainError::Interrupted { step, n_steps, kept })
    }

    fn finish(&self, Place { before, after, epoch }: &Place) -> Result<()> {
        let (path, best) = (self.output.path(), epoch.best.as_ref());
        let digest = match best {
            None => self.written(path)?,
            Some(best) => {
                become_result(&self.epoch_file(best.epoch), path, self.args.keep_epochs)?;
                // Where the run was killed before it let go of one.
                (1..=epoch.n_done).filter(|n| *n != best.epoch).try_for_each(|n| self.let_go(n))?;
                digest(path)?
            }
        };
        if let (Some(before), Some(after)) = (before.nll, best.map_or(*after, |best| best.nll)) {
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
