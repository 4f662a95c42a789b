//! What the answers of both versions are worth, in the eyes of one judge.

use policy::Rollout;
use reward::{Lane, Ruling, ScoreError, ScoreRequest, Scorer, scorer::Outcome};

use super::{Trial, TrialError};
use crate::{
    gate::comparison::{Pair, PairedDifference},
    length_penalty::LengthPenalty,
    scoring::score_request,
};

/// The difference, and the reward version of every score in it.
type Judged = (PairedDifference, String);

impl Trial<'_> {
    /// `None` where nobody judges without being told, or there are too few questions.
    pub(super) fn judge(&self, of_candidate: &[Rollout], of_live: &[Rollout]) -> Result<Option<Judged>, TrialError> {
        let Some(scorer) = self.scorer else {
            return Ok(None);
        };
        let Ruling::Judge(formula) = scorer.rules().ruling(&[], 0, u64::MAX) else {
            return Ok(None);
        };
        let vocabulary = self.engine.vocabulary();
        let requests = |answers: &[Rollout]| -> Vec<ScoreRequest> {
            answers.iter().map(|answer| score_request(&vocabulary, answer, formula)).collect()
        };
        let pairs = Pair::unjudged(of_candidate, of_live, LengthPenalty::of(self.config));
        compared(scorer, pairs, [requests(of_candidate), requests(of_live)])
    }
}

/// One sitting judges both halves, whoever takes the seat meanwhile: a difference between two judges would be taken for one
/// between two versions.
fn compared(
    scorer: &Scorer,
    pairs: Vec<Pair>,
    [of_candidate, of_live]: [Vec<ScoreRequest>; 2],
) -> Result<Option<Judged>, TrialError> {
    let sitting = scorer.sitting();
    let candidate = scorer.score_by(sitting.clone(), Lane::Background, of_candidate)?;
    let live = scorer.score_by(sitting, Lane::Background, of_live)?;
    Ok(paired(pairs, candidate, live)?)
}

/// A question of which one answer can never be judged is left out: asked again, it would end every trial of this update. Left
/// with too few, the trial was none, which is no pass.
fn paired(pairs: Vec<Pair>, candidate: Vec<Outcome>, live: Vec<Outcome>) -> Result<Option<Judged>, ScoreError> {
    let (mut judged, mut judge, mut unjudged) = (Vec::new(), None, None);
    let is_enough = PairedDifference::of(&pairs).is_some();
    for (pair, outcomes) in pairs.into_iter().zip(candidate.into_iter().zip(live)) {
        match outcomes {
            (Ok(candidate), Ok(live)) => {
                let difference = pair.difference + (candidate.score.0 - live.score.0);
                judged.push(Pair { difference, ..pair });
                judge.get_or_insert(candidate.reward_version);
            }
            (Err(error), _) | (_, Err(error)) if error.is_final() => unjudged = Some(error),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
    }
    match (PairedDifference::of(&judged).zip(judge), unjudged) {
        (None, Some(error)) if is_enough => Err(error),
        (judged, _) => Ok(judged),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use policy::TokenId;
    use reward::{Formula, Judgement, NamedJudge, Score, Scored};

    use super::*;

    fn requests() -> Vec<ScoreRequest> {
        let request = |id: u32| ScoreRequest {
            prompt: [TokenId(1)].into(),
            response: vec![TokenId(id)],
            prompt_text: "".into(),
            response_text: String::new(),
            formula: Formula::MODEL,
        };
        (0..16).map(request).collect()
    }

    /// So many questions, each with a prompt of its own.
    fn pairs(n: usize) -> Vec<Pair> {
        (0..n).map(|i| Pair { prompt: i, draw: i, difference: 0.0 }).collect()
    }

    fn judge(version: &str, score: impl Fn(&[TokenId]) -> f64 + Send + Sync + 'static) -> NamedJudge {
        let judge = move |sequences: &[Vec<TokenId>]| {
            Ok(sequences.iter().map(|sequence| Judgement::from(score(sequence))).collect())
        };
        NamedJudge { version: version.to_owned(), judge: Arc::new(judge) }
    }

    /// Goal: a reward model that is replaced during a trial does not decide it. Method: the same answers on both sides, and a judge
    /// that gives its seat to a sterner one as soon as it is asked.
    #[test]
    fn both_halves_of_a_trial_have_one_judge() {
        let seat: Arc<OnceLock<Scorer>> = Arc::default();
        let handle = Arc::clone(&seat);
        let mild = judge("model@a", move |sequence| {
            handle.get().unwrap().seat(judge("model@b", |_| -100.0));
            f64::from(sequence[1].0)
        });
        let scorer = Scorer::start(&config::Config::default().reward, Some(mild), 1).unwrap();
        seat.set(scorer.clone()).ok().unwrap();
        let (difference, name) = compared(&scorer, pairs(16), [requests(), requests()]).unwrap().unwrap();
        assert_eq!((difference.n, difference.mean, name.as_str()), (16, 0.0, "model@a"));
        assert_eq!(scorer.sitting().model_version(), "model@b", "it was replaced meanwhile");
    }

    #[test]
    fn what_lengths_make_of_a_difference_is_part_of_it() {
        let scored = |score| Ok(Scored { score: Score(score), std: None, reward_version: "remote".to_owned() });
        let all = |score| (0..9).map(|_| scored(score)).collect::<Vec<Outcome>>();
        let paying = pairs(9).into_iter().map(|pair| Pair { difference: 0.75, ..pair }).collect();
        let (difference, _) = super::paired(paying, all(1.0), all(1.5)).unwrap().unwrap();
        assert_eq!((difference.n, difference.mean), (9, 0.25));
    }

    #[test]
    fn an_answer_that_can_never_be_judged_costs_its_question_and_not_the_trial() {
        let scored = |score| Ok(Scored { score: Score(score), std: None, reward_version: "remote".to_owned() });
        let all = |n| (0..n).map(|i| scored(f64::from(i))).collect::<Vec<Outcome>>();
        let refused = || Err(ScoreError::Refused { status: 413 });
        let with = |n, i: usize, outcome| {
            let mut outcomes = all(n);
            outcomes[i] = outcome;
            outcomes
        };
        let paired = |n, candidate, live| super::paired(pairs(n), candidate, live);
        let (difference, name) = paired(10, with(10, 3, refused()), with(10, 5, refused())).unwrap().unwrap();
        assert_eq!((difference.n, difference.mean, name.as_str()), (8, 0.0, "remote"));
        assert_eq!(
            paired(8, with(8, 0, refused()), all(8)),
            Err(ScoreError::Refused { status: 413 }),
            "too few are left"
        );
        assert_eq!(paired(7, all(7), all(7)), Ok(None), "there never were enough");
        let gone = ScoreError::Remote("no connection".to_owned());
        assert_eq!(paired(10, with(10, 0, Err(gone.clone())), all(10)), Err(gone), "what may pass is waited for");
    }
}
