//! Averages of the learner's weights, judged beside the live version by a judge that pays for low token ids.

mod cut_short;

use std::{
    fs,
    path::Path,
    sync::{Once, OnceLock},
    time::Duration,
};

use candle_core::Tensor;
use policy::{PolicyVersion, TokenId, architecture::llama::TOKEN_EMBEDDING, checkpoint::Checkpoint};
use reward::{Judgement, NamedJudge, sources::model::Judge};

use super::{super::*, replays::rebuild, world::*};
use crate::{
    averages::Averages,
    averaging::FILE_SUFFIX,
    gate::names,
    rollout_log::{Act, Averaged, RolloutState, VersionRow, VersionState},
    stats::UpdateOutcome,
};

/// Ids below it are paid.
const PAID: u32 = 135;
const DECAY: f64 = 0.5;

/// What a judge does when it is first asked after somebody has said so.
type Meanwhile = Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>;

fn averaging_knobs(config: &mut config::Ppo) {
    (config.ema_decay, config.ema_judge_every) = (DECAY, 1);
    (config.gate_prompts, config.gate_tokens) = (16, 12);
    // What is tested is the reward; a model that says few words breaks the manner too.
    (config.gate_length_factor, config.gate_eos_drop, config.gate_distinct) = (0.0, 1.0, 0.0);
}

/// A learner, and what judges its averages.
struct Averaging {
    world: World,
    learner: Learner,
    averages: Averages,
    meanwhile: Meanwhile,
}

impl Averaging {
    fn new(change: impl FnOnce(&mut config::Ppo)) -> Averaging {
        Averaging::over(World::new(|config| {
            averaging_knobs(config);
            change(config);
        }))
    }

    fn over(mut world: World) -> Averaging {
        let meanwhile = Meanwhile::default();
        let (act, once) = (Arc::clone(&meanwhile), Once::new());
        let judge: Judge = Arc::new(move |sequences: &[Vec<TokenId>]| {
            if let Some(act) = act.get() {
                once.call_once(act);
            }
            let share = |ids: &Vec<TokenId>| ids.iter().filter(|id| id.0 < PAID).count() as f64 / ids.len() as f64;
            Ok(sequences.iter().map(|ids| Judgement::from(share(ids))).collect())
        });
        let judge = NamedJudge { version: "model@ab".to_string(), judge };
        let scorer = Scorer::start(&config::Config::default().reward, Some(judge), 1).unwrap();
        let learner = world.start_with(Some(scorer.clone()));
        let averages = Averages::new(&world.setup(Some(scorer))).unwrap().unwrap();
        Averaging { world, learner, averages, meanwhile }
    }

    /// Has the next update made, which is promoted; returns its version.
    fn update(&mut self) -> PolicyVersion {
        let n = self.learner.history().len() + 1;
        self.world.feed();
        let record = self.world.until_updates(&self.learner, n).pop().unwrap();
        assert_eq!(record.outcome, UpdateOutcome::Promoted, "{:?}", record.reason);
        record.version.unwrap()
    }

    /// The newest version, and how many there are.
    fn newest(&self) -> (VersionRow, usize) {
        let mut rows = self.world.registry.rows().unwrap();
        let n = rows.len();
        (rows.pop().unwrap(), n)
    }

    fn counts(&self) -> Vec<u64> {
        self.averages.board().counts().map(|(_, n)| n).collect()
    }

    /// As a restart does.
    fn close(self) -> Folder {
        let Averaging { world, averages, .. } = self;
        // It keeps the log.
        drop(averages);
        world.close()
    }

    /// Who did what to a version.
    fn acts_on(&self, version: PolicyVersion) -> Vec<String> {
        let rows = self.world.log.reader().audit(0, 1000).unwrap();
        let acts = rows.into_iter().map(|row| row.act).filter(|act| act.subject == Some(version.to_string()));
        acts.map(|Act { who, action, .. }| format!("{} {}", who.actor, action.as_str())).collect()
    }
}

/// All numbers of a file, tensor by tensor in order.
fn weights(path: &Path) -> Vec<f32> {
    let checkpoint = Checkpoint::read(path).unwrap();
    checkpoint.tensors.values().flat_map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

/// Goal: an average becomes a version that says what it is, weighs what averaging says, trains nothing, is nobody's parent, and is
/// live only by an operator's word; then learning goes on from it. Method: two updates of whole weights and of adapters, each with
/// its average judged; one of these is activated, and learnt from; the updates computed again.
#[test]
fn an_average_is_judged_and_kept_and_is_live_only_when_activated() {
    for lora_rank in [0, 4] {
        let mut averaging = Averaging::new(|config| config.lora_rank = lora_rank);
        for n in 1..=2 {
            let live = averaging.update();
            averaging.averages.look();
            let (row, n_rows) = averaging.newest();
            let Averaging { world, learner, averages, .. } = &mut averaging;
            let of = Averaged { first: PolicyVersion::SFT, last: live, decay: DECAY };
            assert_eq!((row.version, row.averaged()), (PolicyVersion(2 * n), Some(of)));
            assert_eq!((row.state, row.n_rollouts, row.reason), (VersionState::Retained, 0, None));
            let number = |name: &str| row.numbers[name];
            let mean = number(names::REWARD_DIFFERENCE);
            assert!(number(names::REWARD_LOWER) <= mean && mean <= number(names::REWARD_UPPER), "{:?}", row.numbers);
            assert_eq!((number("gate/pass"), number("gate/judge/model@ab")), (1.0, 1.0));
            assert_eq!(averages.board().reward_difference().unwrap().0, mean);
            let beside = world.registry.companion(live, FILE_SUFFIX);
            assert_eq!(fs::read(&row.path).unwrap(), fs::read(beside).unwrap());
            assert_eq!((world.engine.live(), learner.status().version), (live, live));
            assert!(!world.engine.is_ready(row.version), "it has left memory");
            averages.look();
            assert_eq!(averaging.newest().1, n_rows, "it has had its turn");
        }
        let Averaging { world, learner, .. } = &mut averaging;
        let [first, live, second] = [2, 3, 4].map(|n| weights(&world.registry.path(PolicyVersion(n))));
        let way: f32 = first.iter().zip(&live).map(|(a, w)| (a - w).abs()).sum();
        let expected = first.iter().zip(&live).map(|(a, w)| DECAY as f32 * a + (1.0 - DECAY as f32) * w);
        let off: f32 = expected.zip(&second).map(|(x, a)| (x - a).abs()).sum();
        assert!(way > 0.0 && off < 1e-3 * way, "{off} off, the way was {way}");
        assert_eq!(learner.history()[1].parent, PolicyVersion(1), "the average is no ancestor");

        learner.activate(PolicyVersion(4), Some(PolicyVersion(3)), &Who::cli()).unwrap();
        assert_eq!(world.serve(1)[0].version, PolicyVersion(4));
        assert_eq!(averaging.update(), PolicyVersion(5));
        averaging.averages.look();
        let of = Averaged { first: PolicyVersion(4), last: PolicyVersion(5), decay: DECAY };
        assert_eq!(averaging.newest().0.averaged(), Some(of), "it began anew where somebody had activated it");
        assert_eq!(averaging.learner.history()[2].parent, PolicyVersion(4));
        assert_eq!(averaging.counts(), [3, 0, 0]);
        assert_eq!(averaging.acts_on(PolicyVersion(4)), ["learner keep", "cli activate"]);
        assert_eq!(averaging.world.states()[&RolloutState::Trained], 24);
        let config = averaging.world.config.clone();
        let folder = averaging.close();
        for update in 0..3 {
            assert!(rebuild(&folder.path().join("data"), &config, update).unwrap().is_equal(), "update {update}");
        }
    }
}

/// The average beside a version says what is not paid, and little else.
fn spoil(path: &Path) {
    let mut checkpoint = Checkpoint::read(path).unwrap();
    let mut rows: Vec<Vec<f32>> = checkpoint.tensors[TOKEN_EMBEDDING].to_vec2().unwrap();
    for row in &mut rows[PAID as usize..] {
        row.iter_mut().for_each(|x| *x *= 60.0);
    }
    let shape = (rows.len(), rows[0].len());
    let table = Tensor::from_vec(rows.concat(), shape, &candle_core::Device::Cpu).unwrap();
    checkpoint.tensors.insert(TOKEN_EMBEDDING.to_owned(), table);
    checkpoint.write(path).unwrap();
}

/// Goal: what looks worse is refused with its report, or kept with what speaks against it, as `ppo.gate` says. Method: a spoilt file
/// beside the live version, under each word.
#[test]
fn an_average_that_is_worse_is_refused_by_a_strict_gate_and_its_file_goes() {
    for (gate, state) in
        [("strict", VersionState::Rejected), ("observe", VersionState::Retained), ("off", VersionState::Retained)]
    {
        let mut averaging = Averaging::new(|config| config.gate = gate.to_string());
        let live = averaging.update();
        spoil(&averaging.world.registry.companion(live, FILE_SUFFIX));
        averaging.averages.look();
        let (row, _) = averaging.newest();
        assert_eq!((row.state, row.has_verdict(), row.path.exists()), (state, true, gate != "strict"));
        let tells =
            row.reason.as_ref().is_some_and(|why| why.contains("of recent traffic is lower than the live version's"));
        assert_eq!(tells, gate != "off", "{gate}: {:?}", row.reason);
        let upper = row.numbers.get(names::REWARD_UPPER);
        assert!(if gate == "off" { upper.is_none() } else { *upper.unwrap() < 0.0 }, "{gate}: {upper:?}");
        assert_eq!(averaging.world.engine.live(), live, "{gate}");
        let (counts, act) = if gate == "strict" { ([0, 1, 0], "learner reject") } else { ([1, 0, 0], "learner keep") };
        assert_eq!((averaging.counts(), averaging.acts_on(row.version)), (counts.to_vec(), vec![act.to_string()]));
        averaging.averages.look();
        assert_eq!(averaging.newest().0.version, row.version, "it is not tried again");
        averaging.close();
    }
}

/// Goal: each so many versions, counted from where the average began or was last judged. Method: four versions, every second judged;
/// two more after somebody has gone back to the first, where the average begins anew; then the knobs that mean never.
#[test]
fn every_so_many_versions_one_average_is_judged() {
    let mut averaging = Averaging::new(|config| config.ema_judge_every = 2);
    let mut judged = Vec::new();
    for n in 0..6 {
        if n == 4 {
            averaging.learner.activate(PolicyVersion(1), None, &Who::cli()).unwrap();
        }
        averaging.update();
        averaging.averages.look();
        judged.push(averaging.newest().0.averaged().map(|of| (of.first.0, of.last.0)));
    }
    assert_eq!(judged, [None, Some((0, 2)), None, Some((0, 5)), None, Some((1, 8))]);
    let [from, first, second, average] =
        [1, 7, 8, 9].map(|n| weights(&averaging.world.registry.path(PolicyVersion(n))));
    let followed = |average: f32, weight: f32| DECAY as f32 * average + (1.0 - DECAY as f32) * weight;
    let expected = (0..from.len()).map(|i| followed(followed(from[i], first[i]), second[i]));
    let off: f32 = expected.zip(&average).map(|(x, a)| (x - a).abs()).sum();
    let way: f32 = from.iter().zip(&second).map(|(a, b)| (a - b).abs()).sum();
    assert!(way > 0.0 && off < 1e-3 * way, "{off} off, the way was {way}");
    for (decay, every) in [(0.0, 1), (0.5, 0)] {
        let mut setup = averaging.world.setup(None);
        (setup.config.ema_decay, setup.config.ema_judge_every) = (decay, every);
        assert!(Averages::new(&setup).unwrap().is_none());
    }
    averaging.close();
}
