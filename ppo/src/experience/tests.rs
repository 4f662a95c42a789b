mod estimators;
mod log_linear;
mod weights;

use policy::{FinishReason, PolicyVersion, TokenId};
use reward::ScoredRollout;

use super::{Episode, Experience, Limits, Passes, PolicyPass, admit, bootstraps};
use crate::{
    rollout_log::DropReason,
    test_world::{END, VOCAB, World, share_of},
};

const LINEAGE: [PolicyVersion; 3] = [PolicyVersion(7), PolicyVersion(5), PolicyVersion(4)];

fn rollout(change: impl FnOnce(&mut policy::Rollout)) -> ScoredRollout {
    let drawn = World::new(1).rollouts(1, share_of(TokenId(3))).remove(0);
    let (mut rollout, scored) = drawn.into_parts();
    rollout.version = PolicyVersion(7);
    rollout.finish = FinishReason::EndToken;
    change(&mut rollout);
    ScoredRollout::new(rollout, scored).unwrap()
}

fn limits() -> Limits<'static> {
    Limits { lineage: &LINEAGE, vocab_size: VOCAB, trains_client_limited: false, held_out_share: 0.0 }
}

#[test]
fn every_rollout_becomes_an_episode_or_says_why_not() {
    let rollouts = [
        rollout(|_| ()),
        rollout(|r| r.version = PolicyVersion(6)),
        rollout(|r| r.finish = FinishReason::ClientLimit),
        rollout(|r| r.finish = FinishReason::Cancelled),
        rollout(|r| r.sampling.temperature = 0.0),
        rollout(|r| r.sampling.presence_penalty = 0.5),
        rollout(|r| r.response[0].log_kept_mass = -0.2),
        rollout(|r| r.response[0].behavior.0 = f32::NEG_INFINITY),
        rollout(|r| r.response.clear()),
        rollout(|r| r.prompt.clear()),
        rollout(|r| r.prompt[0] = TokenId(VOCAB as u32)),
        rollout(|r| r.version = PolicyVersion(4)),
    ];
    let admitted = admit(&rollouts, limits());
    let taken: Vec<(usize, u64)> = admitted.episodes.iter().map(|e| (e.index, e.staleness)).collect();
    assert_eq!(taken, vec![(0, 0), (11, 2)], "staleness counts publications, not numbers");
    let reasons = [
        DropReason::Stale,
        DropReason::ClientLimit,
        DropReason::Cancelled,
        DropReason::Greedy,
        DropReason::Altered,
        DropReason::TruncatedMass,
        DropReason::NonFinite,
        DropReason::Empty,
        DropReason::Empty,
        DropReason::TooLong,
    ];
    assert_eq!(admitted.dropped, (1..11).zip(reasons).collect::<Vec<_>>());
}

#[test]
fn the_token_ids_that_were_drawn_are_the_ones_that_train() {
    let scored = rollout(|_| ());
    let episode = admit(std::slice::from_ref(&scored), limits()).episodes.remove(0);
    let drawn: Vec<TokenId> = scored.rollout().response.iter().map(|t| t.id).collect();
    assert_eq!(episode.sequence.response(), drawn);
    assert_eq!(episode.sequence.tokens[..episode.sequence.prompt_len], scored.rollout().prompt);
    assert!(episode.behavior.iter().zip(&scored.rollout().response).all(|(b, t)| *b == f64::from(t.behavior.0)));
}

#[test]
fn a_stop_text_ends_an_answer_and_the_daemons_limit_does_not() {
    let rollouts = [FinishReason::EndToken, FinishReason::Stop, FinishReason::DaemonLimit]
        .map(|finish| rollout(|r| r.finish = finish));
    let ended: Vec<bool> = admit(&rollouts, limits()).episodes.iter().map(|e| e.terminated).collect();
    assert_eq!(ended, vec![true, true, false]);
}

fn episode(index: usize, n_tokens: usize, score: f64, terminated: bool) -> Episode {
    let response = vec![END; n_tokens];
    Episode {
        index,
        sequence: policy::sequence_batch::Sequence::new(&[TokenId(1)], &response),
        temperature: 1.0,
        behavior: vec![-1.0; n_tokens],
        log_kept_mass: vec![0.0; n_tokens],
        score,
        terminated,
        cut_by_daemon: !terminated,
        staleness: 0,
    }
}

/// What the value model says of the rest of an answer that was cut off, where it is asked.
const LAST_VALUE: f64 = 0.75;

fn from_passes(episodes: Vec<Episode>, old: &[f64], reference: &[f64], values: &[f64]) -> Experience {
    from_passes_with(episodes, [old, reference, values], |_| ())
}

fn from_passes_with(
    episodes: Vec<Episode>,
    [old, reference, values]: [&[f64]; 3],
    change: impl FnOnce(&mut config::Ppo),
) -> Experience {
    let mut config = config::Config::default().ppo;
    (config.lambda, config.score_clip, config.missing_eos_score) = (1.0, 2.0, -1.0);
    change(&mut config);
    let passes = Passes {
        policy: Some(PolicyPass { old: old.to_vec(), entropies: vec![0.0; old.len()] }),
        reference: reference.to_vec(),
        values: values.to_vec(),
        last_values: episodes.iter().map(|e| if bootstraps(e, &config) { LAST_VALUE } else { 0.0 }).collect(),
    };
    Experience::from_passes(episodes, passes, &config, 0.1)
}

#[test]
fn rewards_pay_the_penalty_per_token_and_the_score_at_the_end() {
    let episodes = vec![episode(0, 2, 5.0, true), episode(1, 1, 5.0, false)];
    let got = from_passes(episodes, &[-1.0, -1.0, -1.0], &[-2.0, -1.0, -1.0], &[0.5, 0.5, 0.0]);
    assert_eq!(got.scores, vec![2.0, -1.0], "clipped, and replaced where the end is missing");
    assert_eq!(got.rewards, vec![-0.1, 2.0, -1.0]);
    assert_eq!(got.returns, vec![1.9, 2.0, -1.0]);
    assert_eq!(got.advantages, vec![1.4, 1.5, -1.0]);
}

/// Goal: a score clip of 0 is none. Method: scores beyond the usual clip on both sides, and one that the rule for answers without
/// an end replaces.
#[test]
fn a_score_clip_of_zero_takes_scores_as_they_are() {
    let episodes = vec![episode(0, 1, 50.0, true), episode(1, 1, -7.0, true), episode(2, 1, 50.0, false)];
    let passes = [&[-1.0; 3][..], &[-1.0; 3], &[0.0; 3]];
    let got = from_passes_with(episodes, passes, |config| config.score_clip = 0.0);
    assert_eq!((got.scores, got.rewards), (vec![50.0, -7.0, -1.0], vec![50.0, -7.0, -1.0]));
}

/// Goal: length costs the same whatever a score is, so that no limit is worth running into. Method: scores that the clip and each
/// rule for answers without an end change, of answers on either side of what is free; and two of which one ends a token sooner.
#[test]
fn length_costs_after_the_clip_and_what_is_cut_off_pays_too() {
    let of = |missing_eos: &str, length_penalty: f64| {
        let mut by_client = episode(2, 5, 1.0, false);
        by_client.cut_by_daemon = false;
        let episodes = vec![episode(0, 2, 5.0, true), episode(1, 5, 5.0, false), by_client, episode(3, 4, -1.0, true)];
        from_passes_with(episodes, [&[-1.0; 16], &[-1.0; 16], &[0.0; 16]], |config| {
            config.missing_eos = missing_eos.to_string();
            (config.length_penalty, config.length_free) = (length_penalty, 3);
        })
    };
    for (missing_eos, cut, cost) in
        [("replace", -1.0, 1.0), ("subtract", 1.0, 1.0), ("keep", 2.0, 1.0), ("bootstrap", 0.0, 0.0)]
    {
        let got = of(missing_eos, 0.5);
        assert_eq!(got.scores, [2.0, cut - cost, 0.0, -1.5], "{missing_eos}");
        assert_eq!(got.length_costs, [0.0, cost, 1.0, 0.5], "{missing_eos}");
        let paid: Vec<f64> = (0..4).map(|i| got.rewards[got.range(i)].iter().sum()).collect();
        assert_eq!(paid, got.scores, "{missing_eos}: what is paid is what is left");
        let free = of(missing_eos, 0.0);
        assert_eq!((free.scores, free.length_penalty), (vec![2.0, cut, 1.0, -1.0], None), "{missing_eos}");
    }
    assert!(of("replace", 0.5).scores[1] < of("replace", 0.5).scores[3], "the worst that ends fares better");
}

/// Goal: the rest of an answer that was cut off is worth what the value model says of it, in place of a score, and only where a
/// knob says so. Method: one that ended, one that the daemon cut and one that its client cut, at λ = 1 and γ = 0.5.
#[test]
fn the_value_model_may_speak_for_what_was_cut_off() {
    let returns = |missing_eos: &str, client_limit: &str| {
        let mut by_client = episode(2, 1, 0.5, false);
        by_client.cut_by_daemon = false;
        let episodes = vec![episode(0, 1, 1.0, true), episode(1, 2, 1.0, false), by_client];
        let passes = [&[-1.0; 4][..], &[-1.0; 4], &[0.1; 4]];
        let got = from_passes_with(episodes, passes, |config| {
            (config.missing_eos, config.client_limit) = (missing_eos.to_string(), client_limit.to_string());
            config.gamma = 0.5;
        });
        assert!((got.advantages[2] - (got.returns[2] - 0.1)).abs() < 1e-12);
        got.returns
    };
    let rest = 0.5 * LAST_VALUE;
    for (missing_eos, client_limit, expected) in [
        ("replace", "score", [1.0, -0.5, -1.0, 0.5]),
        ("bootstrap", "score", [1.0, 0.5 * rest, rest, 0.5]),
        ("replace", "bootstrap", [1.0, -0.5, -1.0, rest]),
    ] {
        let got = returns(missing_eos, client_limit);
        let close = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close, "{missing_eos}, {client_limit}: {got:?} instead of {expected:?}");
    }
}

/// Goal: what an answer is paid in all is the same whether the rewards or the loss pay the KL, and the value model's word counts
/// where it takes the score's place. Method: two answers away from the reference, one of them cut off.
#[test]
fn an_answer_is_paid_the_same_wherever_the_penalty_is() {
    let paid = |kl_in: &str, missing_eos: &str| {
        let episodes = vec![episode(0, 2, 1.0, true), episode(1, 1, 1.0, false)];
        let got = from_passes_with(episodes, [&[-1.0; 3], &[-2.0, -1.5, -1.5], &[0.0; 3]], |config| {
            (config.kl_in, config.kl_estimator) =
                (kl_in.to_string(), if kl_in == "loss" { "k2" } else { "k1" }.to_string());
            config.missing_eos = missing_eos.to_string();
        });
        [got.paid(0), got.paid(1)]
    };
    // β is 0.1; Σ k1 is 1.5 and 0.5.
    for (missing_eos, in_place) in [("replace", -1.0), ("bootstrap", LAST_VALUE)] {
        for kl_in in ["reward", "loss"] {
            let [whole, cut] = paid(kl_in, missing_eos);
            assert!((whole - 0.85).abs() < 1e-12 && (cut - (in_place - 0.05)).abs() < 1e-12, "{kl_in} {whole} {cut}");
        }
    }
}

/// A sequence that another policy drew has no say in the scale of the others' advantages.
#[test]
fn whitening_looks_only_at_what_trains() {
    let mut stranger = episode(2, 1, -2.0, true);
    stranger.behavior = vec![-3.0];
    let episodes = vec![episode(0, 1, 1.0, true), episode(1, 1, 0.0, true), stranger];
    let got = from_passes(episodes, &[-1.0; 3], &[-1.0; 3], &[0.0; 3]);
    assert!(got.is_kept(0) && got.is_kept(1) && !got.is_kept(2));
    assert!((got.whitened[0] - 1.0).abs() < 1e-6 && (got.whitened[1] + 1.0).abs() < 1e-6);
    assert_eq!(got.whitened[2], 0.0);
}

#[test]
fn what_the_client_cut_off_keeps_its_score_and_what_the_daemon_cut_off_does_not() {
    let rollouts =
        [rollout(|r| r.finish = FinishReason::ClientLimit), rollout(|r| r.finish = FinishReason::DaemonLimit)];
    let limits = Limits { trains_client_limited: true, ..limits() };
    let cut: Vec<bool> = admit(&rollouts, limits).episodes.iter().map(|e| e.cut_by_daemon).collect();
    assert_eq!(cut, vec![false, true]);
}

/// One sequence that some model chokes on costs that sequence and no other.
#[test]
fn a_pass_that_is_not_finite_drops_its_episode_only() {
    let episodes = vec![episode(4, 2, 1.0, true), episode(6, 1, 1.0, true), episode(9, 1, 0.0, true)];
    let passes = Passes {
        policy: Some(PolicyPass { old: vec![-1.0; 4], entropies: vec![0.5, 0.6, 0.7, 0.8] }),
        reference: vec![-1.0, -2.0, -3.0, -4.0],
        values: vec![0.0, 0.0, f64::NAN, 0.0],
        last_values: vec![0.5, 0.0, 0.0],
    };
    let (whole, rest, broken) = passes.without_broken(episodes);
    assert_eq!(whole.iter().map(|e| e.index).collect::<Vec<_>>(), vec![4, 9]);
    assert_eq!((rest.reference, rest.last_values, broken), (vec![-1.0, -2.0, -4.0], vec![0.5, 0.0], vec![6]));
    assert_eq!(rest.policy.unwrap().entropies, vec![0.5, 0.6, 0.8]);
}
