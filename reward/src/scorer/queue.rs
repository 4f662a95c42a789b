//! What waits for a lane: as many jobs as its channel holds, and as much as they may hold together until they are answered.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crossbeam_channel::{Sender, TrySendError};

use super::{ScoreJob, ScorerError};

/// Bytes of one lane's jobs, as tokens and texts; a job that comes to an empty lane is taken whatever it holds.
const LANE_BYTES_MAX: usize = 256 << 20;

/// The way to one lane.
pub(super) struct Queue {
    pub(super) jobs: Sender<ScoreJob>,
    room: Room,
}

impl Queue {
    pub(super) fn new(jobs: Sender<ScoreJob>) -> Queue {
        Queue { jobs, room: Room::default() }
    }

    /// Hands over a job without waiting.
    ///
    /// # Errors
    /// When there is no place or no room for it, or the lane has ended.
    pub(super) fn push(&self, job: ScoreJob) -> Result<(), ScorerError> {
        let taken = self.room.take(job.n_bytes()).ok_or(ScorerError::Full)?;
        self.jobs.try_send(ScoreJob { _taken: Some(taken), ..job }).map_err(|refused| match refused {
            TrySendError::Full(_) => ScorerError::Full,
            TrySendError::Disconnected(_) => ScorerError::Closed,
        })
    }
}

/// The room of one lane.
#[derive(Clone, Debug, Default)]
struct Room(Arc<AtomicUsize>);

/// A part of the room, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    n_bytes: usize,
}

impl Room {
    /// Takes a part, if there is so much left.
    fn take(&self, n_bytes: usize) -> Option<Taken> {
        let with = |held: usize| {
            let held_then = held.saturating_add(n_bytes);
            (held == 0 || held_then <= LANE_BYTES_MAX).then_some(held_then)
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, with).ok()?;
        Some(Taken { room: self.clone(), n_bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.n_bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;
    use policy::TokenId;

    use super::*;
    use crate::{scorer::ScoreRequest, sources::Formula};

    fn response(prompt: &Arc<[TokenId]>, prompt_text: &Arc<str>) -> ScoreRequest {
        ScoreRequest {
            prompt: Arc::clone(prompt),
            response: vec![TokenId(1); 2],
            prompt_text: Arc::clone(prompt_text),
            response_text: "no".to_owned(),
            formula: Formula::MODEL,
        }
    }

    /// Goal: the jobs that wait are bounded by what they hold. Method: jobs of little more than half of that in a lane that nobody
    /// serves, the room of one that is answered, and jobs that hold as much together because each response shares its prompt.
    #[test]
    fn jobs_wait_as_long_as_there_is_room_for_what_they_hold() {
        let (sender, jobs) = bounded(64);
        let queue = Queue::new(sender);
        let (tokens, text) = (Arc::from([TokenId(7); 100]), Arc::from("x".repeat(LANE_BYTES_MAX / 2)));
        let push = |n: usize| queue.push(ScoreJob::new(vec![response(&tokens, &text); n], |_| ()));
        assert_eq!(push(4096), Ok(()), "its prompt counts once");
        assert_eq!(push(1), Err(ScorerError::Full));
        drop(jobs.recv());
        assert_eq!((push(1), push(1)), (Ok(()), Err(ScorerError::Full)));
    }

    #[test]
    fn what_responses_in_a_row_share_counts_once() {
        let prompt = |n: usize| (Arc::from(vec![TokenId(7); n]), Arc::from("x".repeat(n)));
        let ((a, a_text), (b, b_text)) = (prompt(10), prompt(100));
        let items = [response(&a, &a_text), response(&a, &a_text), response(&b, &b_text), response(&a, &a_text)];
        let own = 2 * size_of::<TokenId>() + 2;
        let of_prompts = (10 + 100 + 10) * (size_of::<TokenId>() + 1);
        assert_eq!(ScoreJob::new(items.to_vec(), |_| ()).n_bytes(), 4 * own + of_prompts);
    }

    #[test]
    fn an_empty_lane_has_room_for_any_job_and_a_full_one_for_none() {
        let room = Room::default();
        let huge = room.take(2 * LANE_BYTES_MAX).expect("nothing was there");
        assert!(room.take(1).is_none());
        drop(huge);
        let half = room.take(LANE_BYTES_MAX / 2).expect("it was given back");
        let rest = room.take(LANE_BYTES_MAX / 2).expect("so much is left");
        assert!(room.take(1).is_none());
        drop((half, rest));
        assert!(room.take(1).is_some());
    }
}
