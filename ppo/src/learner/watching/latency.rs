//! The watch over how long a token takes: what is remembered of it, and the question on the spot.
//!
//! The engine forgets what it has counted of a version when that leaves memory, so what was counted while a version was live is kept
//! here, for those that come after it; a restart forgets it. What a version's steps took is compared until there are many of them; if
//! they are much longer than its nearest ancestor's, the two are timed side by side: by turns, with the same few tokens, nobody else in
//! the pass. Where the ancestor is not in memory any more, the nearest one that is takes its place in that, version 0 at last; where
//! there is none, nothing is a breach. What is as quick as another side by side is not asked again in this service: then it is the
//! machine, or what is asked of it, that has changed.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use policy::{
    PolicyVersion, TokenId,
    checkpoint::{gguf::Header, header_of_file},
    engine::{Engine, StepTimes},
    transformer::is_adapter,
};

use super::{ANCESTORS_MAX, Breach, ServiceId, Watch};
use crate::{
    registry::{Registry, RegistryError},
    watch::latency::{self, Pace, STEPS_MIN},
};

/// Steps of a service after which it has been compared enough.
const STEPS_ENOUGH: u64 = 20 * STEPS_MIN;
/// Versions of which steps are kept.
const KEPT_MAX: usize = ANCESTORS_MAX as usize + 2;
/// Turns in which the live version has to be slower before it is found to be.
const SLOW_TURNS: usize = 3;
/// Turns in which it has to be as quick before that is believed: in one the other may have been disturbed.
const QUICK_TURNS: usize = 2;
/// Tokens of a turn.
const TURN_TOKENS: usize = 12;
/// Tokens that a turn must have had when its time is over, unless they took [`LONG`].
const TURN_TOKENS_MIN: usize = 4;
/// So long may the passes of a turn take that fewer will do.
const LONG: Duration = Duration::from_secs(1);
/// Longest turn: no other look is taken meanwhile, in four of both versions at most.
const TURN_MAX: Duration = Duration::from_secs(4);
/// What an adapter may cost beside bare weights, which were seen to take up to 2.2 times as long.
const ADAPTER_FACTOR_MIN: f64 = 2.5;
/// Weights of another type take another time by right.
const BYTES_FACTOR_MAX: f64 = 1.25;
/// Pause between two attempts to time them, where the first came to nothing.
const PAUSE: Duration = Duration::from_secs(30);
/// What they are timed with: it does not matter.
const TEXT: &str = "The same few words for everybody, so that nothing differs but the weights.";

/// Looks at how long a token of the live version takes.
pub(in crate::learner) struct LatencyWatch<'w> {
    watch: &'w Watch,
    /// What the engine counted of versions while they were live.
    known: BTreeMap<PolicyVersion, StepTimes>,
    service: Option<Service>,
}

/// The service under watch.
struct Service {
    id: ServiceId,
    /// What the engine had counted of its version when it began.
    start: StepTimes,
    finding: Finding,
}

enum Finding {
    /// Nothing yet, and nothing is timed before then.
    Open(Instant),
    /// It is as quick as others.
    Good,
    Bad(Breach),
}

/// What a forward pass has to read.
#[derive(Clone, Copy)]
struct Load {
    /// Bytes of a weight, of an adapter those of version 0's; 0 where that cannot be told.
    weight_bytes: f64,
    is_adapter: bool,
}

impl Load {
    fn of(registry: &Registry, version: PolicyVersion) -> Load {
        let header = |version| header_of_file(&registry.path(version)).ok();
        let is_adapter = header(version).is_some_and(|header| is_adapter(&header.metadata));
        let weights = header(if is_adapter { PolicyVersion::SFT } else { version });
        Load { weight_bytes: weights.map_or(0.0, |weights| bytes_of_a_weight(&weights)), is_adapter }
    }

    /// How many times as long as this one another may take before that is a fault; `None` where its weights are larger by right.
    fn factor_beside(self, other: Load, factor: f64) -> Option<f64> {
        let is_alike = other.weight_bytes <= BYTES_FACTOR_MAX * self.weight_bytes;
        let has_adapter = self.is_adapter || other.is_adapter;
        is_alike.then_some(if has_adapter { factor.max(ADAPTER_FACTOR_MIN) } else { factor })
    }
}

fn bytes_of_a_weight(weights: &Header) -> f64 {
    let n: u64 = weights.tensors.values().map(|place| place.dims.iter().product::<u64>()).sum();
    let bytes: u64 = weights.tensors.values().map(|place| place.n_bytes).sum();
    bytes as f64 / n.max(1) as f64
}

/// What was found side by side.
#[derive(Debug, PartialEq)]
enum Timed {
    Slower(Pace),
    AsQuick,
    /// The engine had no time for it, or nobody waits any more.
    Unknown,
}

impl<'w> LatencyWatch<'w> {
    pub(in crate::learner) fn over(watch: &'w Watch) -> LatencyWatch<'w> {
        LatencyWatch { watch, known: BTreeMap::new(), service: None }
    }

    /// Whether the live version is as quick as others.
    #[cfg(test)]
    pub(in crate::learner) fn has_passed(&self) -> bool {
        self.service.as_ref().is_some_and(|service| matches!(service.finding, Finding::Good))
    }

    /// Why the live version must go; `None` while there is no reason. Where there seems to be one, it takes as long as some dozen
    /// tokens of two versions do, or until `go_on` says no.
    pub(in crate::learner) fn look(&mut self, go_on: &dyn Fn() -> bool) -> Result<Option<Breach>, RegistryError> {
        let Watch { n_rollouts, latency_factor: factor, registry, engine, .. } = self.watch;
        if *n_rollouts == 0 || *factor == 0.0 {
            return Ok(None);
        }
        let live = registry.live()?.version;
        let id = (live, registry.live_since(live)?);
        let now = engine.step_times(live);
        if self.service.as_ref().is_none_or(|service| service.id != id) {
            let finding = match registry.is_live_by_rollback(live)? {
                true => Finding::Good,
                false => Finding::Open(Instant::now()),
            };
            self.service = Some(Service { id, start: now.clone(), finding });
        }
        let Some(service) = &self.service else { return Ok(None) };
        let steps = now.since(&service.start);
        let is_due = match &service.finding {
            Finding::Bad(breach) => return Ok(Some(breach.clone())),
            Finding::Good => false,
            Finding::Open(due) => *due <= Instant::now(),
        };
        let finding =
            if is_due && live != PolicyVersion::SFT { self.find(live, &steps, *factor, go_on)? } else { None };
        self.keep(live, steps);
        if let (Some(finding), Some(service)) = (finding, &mut self.service) {
            service.finding = finding;
            if let Finding::Bad(breach) = &service.finding {
                return Ok(Some(breach.clone()));
            }
        }
        Ok(None)
    }

    /// Keeps the steps of a version for those that come after it, unless more of them are known from an earlier service.
    fn keep(&mut self, version: PolicyVersion, steps: StepTimes) {
        let n_known = self.known.get(&version).map_or(0, StepTimes::n_steps_in_all);
        if steps.n_steps_in_all() > n_known {
            self.known.insert(version, steps);
        }
        while self.known.len() > KEPT_MAX {
            self.known.pop_first();
        }
    }

    /// What is to be said of the live version now, if that has changed.
    fn find(
        &self,
        live: PolicyVersion,
        steps: &StepTimes,
        factor: f64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Finding>, RegistryError> {
        if steps.n_steps_in_all() < STEPS_MIN {
            return Ok(None);
        }
        let ancestors = self.watch.ancestors(live)?;
        let compare = |good: &PolicyVersion| Some((*good, latency::compare(steps, &self.steps_of(*good))?));
        let Some((good, pace)) = ancestors.iter().find_map(compare) else {
            return Ok(None);
        };
        let load = |version| Load::of(&self.watch.registry, version);
        // Files are looked at only where there is something to be asked, the live version's once.
        let its = LazyCell::new(|| load(live));
        let fair = |version| load(version).factor_beside(*its, factor);
        if !pace.is_slower(factor) || fair(good).is_none_or(|factor| !pace.is_slower(factor)) {
            return Ok((steps.n_steps_in_all() >= STEPS_ENOUGH).then_some(Finding::Good));
        }
        let is_there = |version: &PolicyVersion| self.watch.engine.is_ready(*version);
        let partner = |version| Some(version).filter(is_there).and_then(|version| Some((version, fair(version)?)));
        let Some((other, factor)) = [good].into_iter().chain(ancestors).find_map(partner) else {
            return Ok(Some(Finding::Open(Instant::now() + PAUSE)));
        };
        let ((now, before), finding) = (pace.words(), self.time(live, other, factor, go_on));
        Ok(Some(match finding {
            Timed::Slower(by_the_clock) => {
                let (its, others) = by_the_clock.words();
                let why = format!(
                    "a token takes {now}, with {good} it took {before}; side by side with {other} it takes {its} and {others}"
                );
                Finding::Bad(self.watch.breach(live, good, why)?)
            }
            Timed::AsQuick => {
                tracing::warn!(
                    %live, now, %good, before, %other,
                    "a token takes longer than with an older version, but not side by side: it is the machine, or what is asked"
                );
                Finding::Good
            }
            Timed::Unknown => Finding::Open(Instant::now() + PAUSE),
        }))
    }

    /// What is known of an ancestor: from when it was live, or since it came into memory, for clients may name it.
    fn steps_of(&self, version: PolicyVersion) -> StepTimes {
        let of_now = self.watch.engine.step_times(version);
        let known = self.known.get(&version).filter(|known| known.n_steps_in_all() > of_now.n_steps_in_all());
        known.cloned().unwrap_or(of_now)
    }

    /// Times both by turns.
    fn time(&self, live: PolicyVersion, other: PolicyVersion, factor: f64, go_on: &dyn Fn() -> bool) -> Timed {
        let engine = &self.watch.engine;
        let Some(tokens) = tokens(engine) else { return Timed::Unknown };
        let turn = |version| {
            let until = Instant::now() + TURN_MAX;
            let timed = engine.time_tokens(version, &tokens, &|| go_on() && Instant::now() < until);
            let is_told = |took: &Vec<Duration>| {
                took.len() >= TURN_TOKENS_MIN.min(tokens.len()) || took.iter().sum::<Duration>() >= LONG
            };
            timed.ok().filter(is_told)
        };
        by_turns(factor, || latency::timed(&turn(live)?, &turn(other)?))
    }
}

/// What turns of both say, as many as it takes.
fn by_turns(factor: f64, mut turn: impl FnMut() -> Option<Pace>) -> Timed {
    let (mut n_slow, mut n_quick) = (0, 0);
    loop {
        let Some(pace) = turn() else { return Timed::Unknown };
        match pace.is_slower(factor) {
            true => n_slow += 1,
            false => n_quick += 1,
        }
        if n_slow == SLOW_TURNS {
            return Timed::Slower(pace);
        }
        if n_quick == QUICK_TURNS {
            return Timed::AsQuick;
        }
    }
}

/// Tokens of a turn, or as many as fit.
fn tokens(engine: &Engine) -> Option<Vec<TokenId>> {
    let words = engine.vocabulary().tokenize(TEXT).ok().filter(|words| !words.is_empty())?;
    let n = TURN_TOKENS.min(engine.context_tokens() as usize);
    Some(words.into_iter().cycle().take(n).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one disturbed turn neither acquits nor convicts. Method: turns of a version that is as quick (1) or slower (4), in any order.
    #[test]
    fn no_single_turn_decides() {
        let pace = |live: f64| Pace { live, before: 1.0 };
        let found = |turns: &[f64]| {
            let mut turns = turns.iter();
            let timed = by_turns(3.0, || turns.next().map(|live| pace(*live)));
            (timed, turns.len())
        };
        let slower = || Timed::Slower(pace(4.0));
        assert_eq!(found(&[4.0, 4.0, 4.0]), (slower(), 0));
        assert_eq!(found(&[1.0, 4.0, 4.0, 4.0]), (slower(), 0));
        assert_eq!(found(&[4.0, 1.0, 4.0, 1.0, 4.0]), (Timed::AsQuick, 1));
        assert_eq!(found(&[1.0, 1.0, 4.0]), (Timed::AsQuick, 1));
        assert_eq!(found(&[4.0, 4.0]), (Timed::Unknown, 0), "the engine had no time for a third");
    }

    /// Goal: what takes longer by right is not held against what is lighter. Method: the sizes of f16, f32 and 8 bits, and adapters.
    #[test]
    fn weights_of_another_type_are_no_fault() {
        let whole = |weight_bytes| Load { weight_bytes, is_adapter: false };
        let (f16, adapter) = (whole(2.0), Load { weight_bytes: 2.0, is_adapter: true });
        assert_eq!(f16.factor_beside(whole(2.0), 3.0), Some(3.0));
        assert_eq!(f16.factor_beside(whole(1.06), 3.0), Some(3.0), "lighter weights have no excuse");
        assert_eq!(f16.factor_beside(whole(4.0), 3.0), None);
        assert_eq!((f16.factor_beside(adapter, 2.0), adapter.factor_beside(f16, 4.0)), (Some(2.5), Some(4.0)));
        assert_eq!(whole(0.0).factor_beside(f16, 3.0), None, "its file is gone");
    }
}
