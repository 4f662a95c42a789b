//! What the learner does about guard rails, beyond what a round does itself.

use std::sync::{Arc, atomic::Ordering};

use super::{
    halt::Announced,
    owner::Owner,
    trainer::{BuildError, Trainer},
};
use crate::{
    error::PpoError,
    guard::{Guard, SKIPPED_ROUNDS_MAX, Trips},
    models::Models,
    rollout_log::{Act, Action, StreakRow, Who},
    snapshot::Snapshot,
    stats::UpdateOutcome,
    update::RoundOutcome,
};

/// Rounds in a row that taught nothing, and how the models were before the first of them.
///
/// A round that is skipped leaves the policy as it was, but not the value model, the moments and the memories: data that
/// are bad enough to be refused may have spoilt those. So the first snapshot is kept, for as long as the streak lasts.
///
/// Of a model too large for a whole snapshot ([`crate::snapshot`]) nothing is kept: one round too many, and the learner goes on
/// from the live version with fresh moments, as after an activation.
///
/// It is part of the history: each update's record says what the streak was at its end, so that a restart goes on counting,
/// and a replay goes back where the learner did.
#[derive(Clone, Default)]
pub(super) struct Streak {
    n: u32,
    /// Number of the first update, and the models before it where there is a whole snapshot.
    before: Option<(u64, Option<Arc<Snapshot>>)>,
}

impl Streak {
    /// As it was when the last process ended.
    pub(super) fn resumed(recorded: StreakRow, before: Option<Snapshot>) -> Streak {
        Streak { n: recorded.n, before: Some((recorded.first, before.map(Arc::new))) }
    }

    /// The first update of the rounds that taught nothing.
    pub(super) fn first(&self) -> Option<u64> {
        self.before.as_ref().map(|(first, _)| *first)
    }

    /// Whether it is one round too long, and there is no state in memory to go back to.
    pub(super) fn wants_fresh_moments(&self) -> bool {
        self.n >= SKIPPED_ROUNDS_MAX
    }

    /// What is to be recorded, as long as it lasts.
    fn row(&self) -> Option<StreakRow> {
        self.first().map(|first| StreakRow { first, n: self.n, went_back: false })
    }

    /// The streak after an update that taught nothing, and its record; the models are put back to where they were before the
    /// streak when it is one too long.
    ///
    /// # Errors
    /// When memory fails.
    pub(super) fn prolonged(
        &self,
        update: u64,
        before: &Arc<Snapshot>,
        models: &mut Models,
    ) -> Result<(Streak, StreakRow), PpoError> {
        let kept = || before.is_whole().then(|| Arc::clone(before));
        let (first, before) = self.before.clone().unwrap_or_else(|| (update, kept()));
        let n = self.n + 1;
        let good = before.as_ref().filter(|_| n >= SKIPPED_ROUNDS_MAX);
        let row = StreakRow { first, n, went_back: good.is_some() };
        let Some(good) = good else {
            return Ok((Streak { n, before: Some((first, before)) }, row));
        };
        models.restore(good)?;
        models.control.forget_steps();
        Ok((Streak::default(), row))
    }
}

impl Owner {
    /// The streak after a round, and its record. A round that had nothing to learn from, or warmed the value model up, says
    /// nothing about the learner's health.
    pub(super) fn streak_after(
        &self,
        trainer: &mut Trainer,
        outcome: UpdateOutcome,
        round: &RoundOutcome,
        before: &Arc<Snapshot>,
    ) -> Result<(Streak, Option<StreakRow>), PpoError> {
        let is_refused = outcome == UpdateOutcome::Rejected || round.is_skipped();
        match () {
            () if is_refused => {
                let (streak, row) = trainer.streak.prolonged(trainer.head.update, before, &mut trainer.models)?;
                Ok((streak, Some(row)))
            }
            () if outcome == UpdateOutcome::Promoted => Ok((Streak::default(), None)),
            () => Ok((trainer.streak.clone(), trainer.streak.row())),
        }
    }

    /// After one useless round too many, where there was no state to go back to: on from the live version's weights with fresh
    /// moments. What cannot be done now is done by whoever builds the models anew.
    pub(super) fn refresh_moments(&mut self, update: u64) {
        let Some(trainer) = self.trainer.take_if(|trainer| trainer.streak.wants_fresh_moments()) else {
            return;
        };
        self.counters.restorations.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            update,
            rounds = SKIPPED_ROUNDS_MAX,
            "no round taught anything; the learner goes on from the live version with fresh moments. Look at the guard rails \
             of these rounds; if it comes again, activate an earlier version or lower ppo.policy_learning_rate"
        );
        let live = self.setup.registry.live().map_err(BuildError::from);
        match live.and_then(|live| trainer.rebase(&self.setup, &live)) {
            Ok(trainer) => {
                self.adopt(trainer);
                self.save();
            }
            Err(error) => tracing::warn!(%error, "the live version could not be read"),
        }
    }

    /// Says that the learner went back, if it did.
    pub(super) fn report_streak(&self, update: u64, streak: Option<StreakRow>) {
        if streak.is_some_and(|streak| streak.went_back) {
            self.counters.restorations.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                update,
                rounds = SKIPPED_ROUNDS_MAX,
                "no round taught anything; the learner went back to the state before them. Look at the guard rails of \
                 these rounds; if it comes again, activate an earlier version or lower ppo.policy_learning_rate"
            );
        }
    }

    /// Counts what tripped, says what can be done, and pauses where a guard asks for it.
    pub(super) fn obey_rails(&mut self, update: u64, trips: &Trips) {
        for (guard, trip) in trips.iter() {
            self.counters.count_trips(guard, trip.n);
            tracing::warn!(
                update,
                guard = guard.as_str(),
                action = guard.action().as_str(),
                times = trip.n,
                value = trip.value,
                limit = trip.limit,
                "guard rail: {}",
                guard.advice()
            );
        }
        if let Some(guard) = trips.pausing() {
            let why = reason(guard, trips);
            self.setup.log.note(Act::new(&Who::learner(), Action::Pause, None).done_with(&why));
            self.stand_still_for(why);
        }
    }

    /// Writes down what a guard that asks for the operator says of a round, before the round is committed: a restart in between
    /// would find its data used up, and learn on.
    pub(super) fn announce_halt(&self, trips: &Trips) -> Option<Announced> {
        let guard = trips.pausing()?;
        Some(self.rollback.halt.turn().announce(reason(guard, trips)))
    }

    /// The round came to nothing, and so does its halt.
    pub(super) fn withdraw_halt(&self, announced: Option<Announced>) {
        if let Some(announced) = announced {
            self.rollback.halt.turn().withdraw(announced);
        }
    }

    /// Stands still for what is on the disk, if there is something: a round that panicked may have been committed, and its guard's
    /// word was written before.
    pub(super) fn obey_what_is_announced(&mut self) {
        let announced = self.rollback.halt.turn().read();
        if let Some(why) = announced {
            self.stand_still_for(why);
        }
    }

    /// Nothing is learnt until an operator says so. It is written down already.
    pub(super) fn stand_still_for(&mut self, why: String) {
        self.halted = Some(why);
        self.board.write(|status| status.is_paused = true);
        self.save();
    }
}

fn reason(guard: Guard, trips: &Trips) -> String {
    let numbers = trips.iter().find(|(tripped, _)| *tripped == guard).map(|(_, trip)| (trip.value, trip.limit));
    let (value, limit) = numbers.unwrap_or_default();
    format!("{}: {value:.4} against a limit of {limit:.4}; {}", guard.as_str(), guard.advice())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

    use policy::{PolicyVersion, TokenId, optimizer::AdamState};

    use super::Streak;
    use crate::{
        guard::SKIPPED_ROUNDS_MAX,
        models::Models,
        test_world::{World, bytes_of, share_of},
        update::Round,
    };

    /// Every bit that a round can change.
    #[derive(Debug, PartialEq)]
    struct Bits {
        weights: [BTreeMap<String, Vec<u32>>; 2],
        moments: [(u64, Vec<u32>); 2],
        control: String,
    }

    impl Bits {
        fn of(models: &Models) -> Bits {
            let moments = |state: &AdamState| {
                let tensors = state.moments.values().flat_map(|m| [&m.first, &m.second]);
                let numbers = tensors.flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                (state.step, numbers.map(f32::to_bits).collect())
            };
            Bits {
                weights: [bytes_of(models.policy.parameters()), bytes_of(models.value.parameters())],
                moments: [moments(models.policy_optimizer.state()), moments(models.value_optimizer.state())],
                control: format!("{:?}", models.control()),
            }
        }
    }

    /// Goal: three rounds that taught nothing leave nothing behind. Method: rounds that run away, each of which trains the
    /// value model; every bit after the third against every bit before the first.
    #[test]
    fn after_three_skipped_rounds_every_bit_is_what_it_was_before_them() {
        let mut world = World::new(51);
        let good = world.rollouts(16, share_of(TokenId(3)));
        let lineage = [PolicyVersion(0)];
        let run = |world: &mut World, rollouts: &[reward::ScoredRollout], update: u64| {
            let round = Round { config: &world.config, update, lineage: &lineage, pretraining: &[] };
            round.run(&mut world.models, rollouts, &mut || ControlFlow::Continue(())).unwrap()
        };
        assert!(run(&mut world, &good, 0).has_new_policy());
        let good_control = world.models.control.clone();
        let before = Bits::of(&world.models);
        (world.config.policy_learning_rate, world.config.warmup_updates, world.config.max_grad_norm) = (0.5, 0, 1e6);
        let mut streak = Streak::default();
        for n in 1..=SKIPPED_ROUNDS_MAX {
            let snapshot = Arc::new(world.models.snapshot(&world.config).unwrap());
            let rollouts = world.rollouts(16, share_of(TokenId(3)));
            assert!(run(&mut world, &rollouts, u64::from(n)).is_skipped());
            assert_ne!(Bits::of(&world.models), before, "the value model has learnt, and the memories have moved");
            let (next, row) = streak.prolonged(u64::from(n), &snapshot, &mut world.models).unwrap();
            assert_eq!((row.first, row.n, row.went_back), (1, n, n == SKIPPED_ROUNDS_MAX));
            streak = next;
        }
        // But what is usual of a step begins anew; see `forget_steps`.
        let mut forgetful = good_control.clone();
        forgetful.forget_steps();
        assert_eq!(world.models.control, forgetful);
        world.models.control = good_control;
        assert_eq!(Bits::of(&world.models), before);
        assert_eq!((streak.n, streak.before.is_none()), (0, true));
    }
}
