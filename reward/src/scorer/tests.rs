//! Batching, errors per response, the two lanes, bounds and shutdown, with plain functions in the reward model's place.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use crossbeam_channel::unbounded;
use policy::{
    TokenId,
    engine::{CancelFlag, Tenant},
};

use super::*;
use crate::{
    score::{Judgement, Score},
    sources::{Formula, model::Judge},
};

fn reward(batch: usize) -> config::Reward {
    config::Reward { batch, ..config::Config::default().reward }
}

fn scorer(batch: usize, judge: impl Fn(&[Vec<TokenId>]) -> Result<Vec<f64>, String> + Send + Sync + 'static) -> Scorer {
    let judge: Judge = Arc::new(move |sequences| Ok(judge(sequences)?.into_iter().map(Judgement::from).collect()));
    let model = NamedJudge { version: "model@ab".to_owned(), judge };
    Scorer::start(&reward(batch), Some(model), 1).expect("threads")
}

fn item(prompt: u32, response: u32, formula: Formula) -> ScoreRequest {
    ScoreRequest {
        prompt: [TokenId(prompt)].into(),
        response: vec![TokenId(response)],
        prompt_text: "".into(),
        response_text: String::new(),
        formula,
    }
}

fn items(responses: std::ops::Range<u32>) -> Vec<ScoreRequest> {
    responses.map(|response| item(7, response, Formula::MODEL)).collect()
}

fn last_token(sequences: &[Vec<TokenId>]) -> Result<Vec<f64>, String> {
    Ok(sequences.iter().map(|tokens| f64::from(tokens.last().expect("a response").0)).collect())
}

fn scores(outcomes: Vec<Outcome>) -> Vec<f64> {
    outcomes.into_iter().map(|outcome| outcome.expect("a score").score.0).collect()
}

#[test]
fn the_model_sees_prompt_and_response_and_its_score_is_stamped() {
    let scorer = scorer(32, |sequences| {
        assert_eq!(sequences, [vec![TokenId(7), TokenId(3)]]);
        Ok(vec![0.5])
    });
    let outcomes = scorer.score(Lane::Requests, items(3..4)).expect("room");
    let expected = Scored { score: Score(0.5), std: None, reward_version: "model@ab".to_owned() };
    assert_eq!(outcomes, [Ok(expected)]);
}

#[test]
fn the_spread_of_an_ensemble_is_on_the_scale_of_its_part_of_the_sum() {
    let judge: Judge = Arc::new(|sequences| Ok(vec![Judgement { score: 2.0, std: Some(0.5) }; sequences.len()]));
    let model = NamedJudge { version: "model@ab/min".to_owned(), judge };
    let scorer = Scorer::start(&reward(4), Some(model), 1).expect("threads");
    let mixed = Formula { model: -2.0, remote: 0.0, feedback: Some((1.0, Score(3.0))) };
    let outcomes = scorer.score(Lane::Requests, vec![item(7, 1, Formula::MODEL), item(7, 1, mixed)]).expect("room");
    let seen: Vec<_> = outcomes.into_iter().map(|scored| scored.map(|s| (s.score.0, s.std))).collect();
    assert_eq!(seen, [Ok((2.0, Some(0.5))), Ok((-1.0, Some(1.0)))]);
}

/// Goal: callers share batches, and each gets its own outcomes in order. Method: hold the lane at its first job while
/// others queue up, then let go and look at the sizes that the model saw.
#[test]
fn a_lane_batches_across_callers_up_to_its_size() {
    let (sizes, seen) = unbounded();
    let (go, gate) = bounded::<()>(0);
    let scorer = scorer(4, move |sequences| {
        sizes.send(sequences.len()).expect("the test listens");
        gate.recv().expect("the test opens");
        last_token(sequences)
    });
    let (reply, replies) = unbounded();
    for (n, job) in [0..1, 1..3, 3..4, 4..9].into_iter().enumerate() {
        let reply = reply.clone();
        let send = move |outcomes| reply.send((n, scores(outcomes))).expect("the test listens");
        scorer.submit(Lane::Background, ScoreJob::new(items(job), send)).expect("room");
        if n == 0 {
            assert_eq!(seen.recv(), Ok(1));
        }
    }
    for _ in 0..3 {
        go.send(()).expect("the lane waits");
    }
    assert_eq!((seen.recv(), seen.recv()), (Ok(4), Ok(4)), "2 + 1 + 5 responses in chunks of 4");
    let mut answers: Vec<(usize, Vec<f64>)> = (0..4).map(|_| replies.recv().expect("an answer")).collect();
    answers.sort_by_key(|(n, _)| *n);
    let expected = [vec![0.0], vec![1.0, 2.0], vec![3.0], vec![4.0, 5.0, 6.0, 7.0, 8.0]];
    assert_eq!(answers.into_iter().map(|(_, scores)| scores).collect::<Vec<_>>(), expected);
    assert_eq!(scorer.stats().batches, 3);
    assert_eq!(scorer.stats().scored, 9);
}

/// Goal: a small job does not wait for a huge one, and a batch ends at its tokens. Method: a hundred responses of nine
/// tokens under way, one more caller, batches of thirty tokens; who is answered first, and what the model saw at once.
#[test]
fn callers_take_turns_and_batches_are_cut_by_tokens() {
    let (sizes, seen) = unbounded();
    let (go, gate) = bounded::<()>(0);
    let judge: Judge = Arc::new(move |sequences: &[Vec<TokenId>]| {
        sizes.send(sequences.iter().map(Vec::len).collect::<Vec<_>>()).expect("the test listens");
        gate.recv().expect("the test opens");
        Ok(vec![Judgement::from(1.0); sequences.len()])
    });
    let model = NamedJudge { version: "model@ab".to_owned(), judge };
    let mut config = reward(32);
    config.batch_tokens = 30;
    let scorer = Scorer::start(&config, Some(model), 1).expect("threads");
    let long = ScoreRequest { prompt: [TokenId(7); 8].into(), ..item(7, 1, Formula::MODEL) };
    let (reply, replies) = unbounded();
    for (name, job) in [("large", vec![long; 100]), ("small", items(0..1))] {
        let reply = reply.clone();
        // The test is over by the time that the large job ends.
        let send = move |_| {
            let _ = reply.send(name);
        };
        scorer.submit(Lane::Requests, ScoreJob::new(job, send)).expect("room");
        if name == "large" {
            assert_eq!(seen.recv(), Ok(vec![9, 9, 9]));
        }
    }
    go.send(()).expect("the lane waits");
    assert_eq!(seen.recv(), Ok(vec![9, 2, 9, 9]), "both callers are in it");
    go.send(()).expect("the lane waits");
    assert_eq!(replies.recv(), Ok("small"));
    drop(go);
}

/// Goal: however many jobs one tenant has handed over, another's first is taken and judged next. Method: a judge who waits, one
/// tenant's jobs until it is refused, then another's; who is answered, batch by batch of two.
#[test]
fn a_tenant_does_not_wait_for_all_the_jobs_of_another() {
    let (go, gate) = bounded::<()>(0);
    let (busy, began) = unbounded();
    let scorer = scorer(2, move |sequences| {
        busy.send(()).expect("the test listens");
        let _ = gate.recv();
        last_token(sequences)
    });
    let (reply, replies) = unbounded();
    let submit = |tenant: u32| {
        let reply = reply.clone();
        // The test is over by the time that the last ones end.
        let send = move |_| {
            let _ = reply.send(tenant);
        };
        scorer.submit(Lane::Requests, ScoreJob::new(items(0..1), send).of(Tenant(tenant)))
    };
    submit(1).expect("room");
    began.recv().expect("the lane is at work");
    let n_waiting = (0..1000).take_while(|_| submit(1).is_ok()).count();
    assert_eq!(n_waiting, reward(1).max_queue * 3 / 4, "the rest is for others");
    submit(2).expect("nothing of it waits");
    assert_eq!(submit(1), Err(ScorerError::Full));
    for _ in 0..2 {
        go.send(()).expect("the lane waits");
        began.recv().expect("it goes on");
    }
    let answered: Vec<u32> = replies.try_iter().collect();
    assert!(answered.len() == 3 && answered.contains(&2), "{answered:?}");
    drop(go);
}

/// Goal: nothing is judged for a caller who has left. Method: raise the flag while the first batch is being judged.
#[test]
fn a_job_whose_caller_left_is_dropped() {
    let (busy, began) = unbounded();
    let (go, gate) = bounded::<()>(0);
    let scorer = scorer(2, move |sequences| {
        busy.send(()).expect("the test listens");
        gate.recv().expect("the test opens");
        last_token(sequences)
    });
    let left = CancelFlag::default();
    let job = ScoreJob::new(items(0..10), |_| panic!("nobody is there to be answered"));
    scorer.submit(Lane::Requests, job.cancelled_by(left.clone())).expect("room");
    began.recv().expect("the lane is at work");
    left.cancel();
    go.send(()).expect("the lane waits");
    let (reply, next) = bounded(1);
    let send = move |outcomes| reply.send(scores(outcomes)).expect("the test listens");
    scorer.submit(Lane::Requests, ScoreJob::new(items(5..6), send)).expect("room");
    go.send(()).expect("the next job is judged");
    assert_eq!(next.recv(), Ok(vec![5.0]));
    assert_eq!((scorer.stats().scored, scorer.stats().abandoned), (3, 8));
}

/// Goal: whoever is waiting when the model is replaced gets one model's judgements, the old one's, and whoever comes later the
/// new one's. Method: hold the lane in the first of a long job's batches, seat another, hand over a second job, let go.
#[test]
fn a_job_is_judged_by_who_sat_when_it_came() {
    let (busy, began) = unbounded();
    let (go, gate) = bounded::<()>(0);
    let old = scorer(2, move |sequences| {
        busy.send(()).expect("the test listens");
        gate.recv().expect("the test opens");
        Ok(vec![1.0; sequences.len()])
    });
    let (reply, replies) = unbounded();
    let hand_over = |n: u32| {
        let reply = reply.clone();
        let send = move |outcomes: Vec<Outcome>| {
            let seen = outcomes.into_iter().map(|scored| scored.map(|s| (s.score.0, s.reward_version)));
            reply.send(seen.collect::<Result<Vec<_>, _>>().expect("scores")).expect("the test listens");
        };
        old.submit(Lane::Requests, ScoreJob::new(items(0..n), send)).expect("room");
    };
    hand_over(3);
    began.recv().expect("the lane is at work");
    let judge: Judge = Arc::new(|sequences| Ok(vec![Judgement::from(2.0); sequences.len()]));
    let before = old.seat(NamedJudge { version: "model@cd".to_owned(), judge }).expect("somebody sat");
    assert_eq!((before.model_version(), old.reward_version().as_str()), ("model@ab", "model@cd"));
    hand_over(2);
    go.send(()).expect("the lane waits");
    began.recv().expect("the old model has a second batch, which the new job is not part of");
    go.send(()).expect("the lane waits");
    assert_eq!(replies.recv(), Ok(vec![(1.0, "model@ab".to_owned()); 3]));
    assert_eq!(replies.recv(), Ok(vec![(2.0, "model@cd".to_owned()); 2]));
    let outcomes = old.submit(Lane::Requests, ScoreJob::new(items(0..1), |_| ()).judged_by(before));
    assert_eq!(outcomes, Ok(()), "a pinned job goes to the model of its sitting");
    began.recv().expect("the old model is asked");
    go.send(()).expect("the lane waits");
}

#[test]
fn where_nobody_sat_nobody_takes_a_seat() {
    let bare = Scorer::start(&reward(1), None, 1).expect("threads");
    let judge: Judge = Arc::new(|sequences| Ok(vec![Judgement::from(2.0); sequences.len()]));
    assert!(bare.seat(NamedJudge { version: "model@cd".to_owned(), judge }).is_none());
    assert_eq!(bare.score(Lane::Requests, items(0..1)).expect("room"), [Err(ScoreError::Absent("reward model"))]);
}

#[test]
fn a_response_that_breaks_its_batch_fails_alone() {
    let fragile = |sequences: &[Vec<TokenId>]| {
        if sequences.iter().any(|tokens| tokens[1] == TokenId(1)) {
            return Err("token 1 is poison".to_owned());
        }
        assert!(sequences.iter().all(|tokens| tokens[1] != TokenId(2)), "token 2 is a bug");
        let score = |tokens: &Vec<TokenId>| {
            if tokens[1] == TokenId(3) { f64::NAN } else { 1.0 }
        };
        Ok(sequences.iter().map(score).collect())
    };
    let scorer = scorer(32, fragile);
    let outcomes = scorer.score(Lane::Background, items(0..5)).expect("room");
    assert!(outcomes[0].is_ok() && outcomes[4].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[1], Err(ScoreError::Model("token 1 is poison".to_owned())));
    assert_eq!(outcomes[2], Err(ScoreError::Model("it panicked".to_owned())));
    assert_eq!(outcomes[3], Err(ScoreError::NonFinite { origin: "model", got: "NaN".to_owned() }));
    assert_eq!((scorer.stats().scored, scorer.stats().failed, scorer.stats().non_finite), (2, 3, 1));
}

#[test]
fn a_formula_asks_only_the_sources_that_it_weighs() {
    let scorer = scorer(32, last_token);
    let said = |weight, score| Some((weight, Score(score)));
    let batch = vec![
        item(0, 5, Formula { model: 2.0, remote: 0.0, feedback: said(0.5, -1.0) }),
        item(0, 6, Formula { model: 0.0, remote: 0.0, feedback: said(1.0, 0.25) }),
        item(0, 7, Formula { model: 1.0, remote: 1.0, feedback: None }),
    ];
    let outcomes = scorer.score(Lane::Requests, batch).expect("room");
    let scored = |n: usize| outcomes[n].clone().map(|scored| (scored.score.0, scored.reward_version));
    assert_eq!(scored(0), Ok((9.5, "2*model@ab+0.5*feedback".to_owned())));
    assert_eq!(scored(1), Ok((0.25, "feedback".to_owned())));
    assert_eq!(scored(2), Err(ScoreError::Absent("reward server")), "a missing part is never 0");
    let bare = Scorer::start(&reward(1), None, 1).expect("threads");
    let outcomes = bare.score(Lane::Requests, items(0..1)).expect("room");
    assert_eq!(outcomes, [Err(ScoreError::Absent("reward model"))]);
}

#[test]
fn a_client_is_served_while_the_background_is_busy() {
    let (go, gate) = bounded::<()>(0);
    let (busy, began) = unbounded();
    let scorer = scorer(32, move |sequences| {
        if sequences[0][1] == TokenId(0) {
            busy.send(()).expect("the test listens");
            gate.recv().expect("the test opens");
        }
        last_token(sequences)
    });
    let (reply, background) = bounded(1);
    let done = move |outcomes| reply.send(scores(outcomes)).expect("the test listens");
    scorer.submit(Lane::Background, ScoreJob::new(items(0..1), done)).expect("room");
    began.recv().expect("the background is at work");
    assert_eq!(scores(scorer.score(Lane::Requests, items(5..6)).expect("room")), [5.0]);
    go.send(()).expect("the background waits");
    assert_eq!(background.recv(), Ok(vec![0.0]));
}

#[test]
fn each_lane_computes_at_its_own_priority() {
    let nices = Arc::new(Mutex::new(Vec::new()));
    let seen = nices.clone();
    let scorer = scorer(32, move |sequences| {
        let status = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
        // After the name in parentheses: state is field 3 of stat(5), nice is field 19.
        let mut fields = status.rsplit_once(')').expect("stat has a name").1.split_whitespace();
        let nice = fields.nth(16).expect("stat has 19 fields").parse::<i32>().expect("a number");
        seen.lock().expect("no panic").push(nice);
        last_token(sequences)
    });
    for lane in [Lane::Background, Lane::Requests] {
        scorer.score(lane, items(0..1)).expect("room");
    }
    assert_eq!(*nices.lock().expect("no panic"), [19, 10]);
}

#[test]
fn a_full_queue_and_a_huge_job_are_refused_and_counted() {
    let (go, gate) = bounded::<()>(0);
    let (busy, began) = unbounded();
    let scorer = scorer(1, move |sequences| {
        let _ = busy.send(());
        let _ = gate.recv();
        last_token(sequences)
    });
    let submit = |n| scorer.submit(Lane::Background, ScoreJob::new(items(0..n), |_| ()));
    submit(1).expect("room");
    began.recv().expect("the lane is at work");
    let n_waiting = reward(1).max_queue;
    for _ in 0..n_waiting {
        submit(1).expect("room");
    }
    assert_eq!(submit(1), Err(ScorerError::Full));
    assert_eq!(submit(4097), Err(ScorerError::TooMany(4097)));
    assert_eq!((scorer.stats().refused, scorer.stats().queued), (2, n_waiting));
    drop(go);
}

/// Goal: shutdown does not wait for a reward server that is down. Method: a port that refuses connections, so that the
/// lane sits in a pause between tries, with a hundred tries to go.
#[test]
fn shutdown_interrupts_retries_and_answers_what_waits() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let mut reward = reward(1);
    (reward.remote_url, reward.remote_retries) = (format!("http://{nobody}/"), 100);
    let scorer = Scorer::start(&reward, None, 1).expect("threads");
    let (reply, replies) = unbounded();
    for n in 0..2 {
        let reply = reply.clone();
        let send = move |outcomes: Vec<Outcome>| reply.send(outcomes).expect("the test listens");
        scorer.submit(Lane::Background, ScoreJob::new(vec![item(0, n, Formula::REMOTE)], send)).expect("room");
    }
    while scorer.stats().remote_failures == 0 {
        std::thread::yield_now();
    }
    assert!(scorer.shutdown(Duration::from_secs(10)));
    let outcomes: Vec<Outcome> = replies.try_iter().flatten().collect();
    assert!(matches!(outcomes[..], [Err(ScoreError::Remote(_)), Err(ScoreError::Closing)]), "{outcomes:?}");
    assert_eq!(scorer.score(Lane::Requests, items(0..1)), Err(ScorerError::Closed));
}
