//! What waits for a lane: so many jobs, and as much as they may hold together until they are answered. Each tenant that is told
//! apart has a share of both, and a queue of its own, from which the lane takes as the tenant's turn comes: however many jobs one
//! has handed over, another one's first is not refused, and does not wait for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use policy::engine::{Part, Room, Tenant};

use super::{ScoreJob, ScorerError};

/// Bytes of one lane's jobs, as tokens and texts; a job that comes to an empty lane is taken whatever it holds.
const LANE_BYTES_MAX: usize = 256 << 20;

/// Bytes that a tenant with nothing in the lane may bring though others fill it: more than a body of the default size becomes,
/// unless its prompt is cut anew for each response.
const FIRST_BYTES_MAX: usize = 16 << 20;

/// The way to one lane.
pub(super) struct Queue {
    waiting: Arc<Waiting>,
    /// Full when the lane is to look already.
    look: Sender<()>,
    places: Room,
    bytes: Room,
}

/// The lane's end of it.
pub(super) struct Arrivals {
    waiting: Arc<Waiting>,
    /// Something may have come.
    pub(super) look: Receiver<()>,
}

/// The jobs that no turn has come to.
#[derive(Default)]
struct Waiting(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    /// In the order of their next turn.
    lines: VecDeque<Line>,
    /// Nobody takes from them any more.
    is_closed: bool,
}

/// The jobs of one tenant, never none.
struct Line {
    tenant: Tenant,
    jobs: VecDeque<(ScoreJob, Part)>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue of at most so many jobs, of which one tenant may fill a share.
pub(super) fn queue(jobs_max: usize, share: f64) -> (Queue, Arrivals) {
    let (sender, look) = bounded(1);
    let (waiting, places) = (Arc::<Waiting>::default(), Room::new(jobs_max, share, 1));
    let bytes = Room::new(LANE_BYTES_MAX, share, FIRST_BYTES_MAX);
    (Queue { waiting: Arc::clone(&waiting), look: sender, places, bytes }, Arrivals { waiting, look })
}

impl Queue {
    /// Hands over a job without waiting.
    ///
    /// # Errors
    /// When there is no place or no room for it, or the lane has ended.
    pub(super) fn push(&self, job: ScoreJob) -> Result<(), ScorerError> {
        let tenant = job.tenant;
        let place = self.places.take(tenant, 1).ok_or(ScorerError::Full)?;
        let bytes = self.bytes.take(tenant, job.n_bytes()).ok_or(ScorerError::Full)?;
        let job = ScoreJob { _bytes: Some(bytes), ..job };
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return Err(ScorerError::Closed);
        }
        match waiting.lines.iter_mut().find(|line| line.tenant == tenant) {
            Some(line) => line.jobs.push_back((job, place)),
            None => waiting.lines.push_back(Line { tenant, jobs: [(job, place)].into() }),
        }
        drop(waiting);
        // Full: the lane is to look already.
        let _ = self.look.try_send(());
        Ok(())
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().lines.iter().map(|line| line.jobs.len()).sum()
    }
}

impl Arrivals {
    /// The next job, of a tenant who may have another one, and each of these in turn.
    pub(super) fn next(&self, may: impl Fn(Tenant) -> bool) -> Option<ScoreJob> {
        let lines = &mut self.waiting.lock().lines;
        let at = lines.iter().position(|line| may(line.tenant))?;
        let mut line = lines.remove(at)?;
        let (job, _place) = line.jobs.pop_front()?;
        if !line.jobs.is_empty() {
            lines.push_back(line);
        }
        Some(job)
    }

    /// Ends the queue: whatever waits; nothing more comes.
    pub(super) fn close(&self) -> Vec<ScoreJob> {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        waiting.lines.drain(..).flat_map(|line| line.jobs).map(|(job, _)| job).collect()
    }
}

impl Drop for Arrivals {
    /// A lane that ended in a panic answers nobody, and its callers learn so.
    fn drop(&mut self) {
        drop(self.close());
    }
}

#[cfg(test)]
mod tests {
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
        let (queue, arrivals) = queue(64, 1.0);
        let (tokens, text) = (Arc::from([TokenId(7); 100]), Arc::from("x".repeat(LANE_BYTES_MAX / 2)));
        let push = |n: usize| queue.push(ScoreJob::new(vec![response(&tokens, &text); n], |_| ()));
        assert_eq!(push(4096), Ok(()), "its prompt counts once");
        assert_eq!(push(1), Err(ScorerError::Full));
        drop(arrivals.next(|_| true));
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

    /// Goal: nobody is refused because of another tenant, by places or by bytes. Method: one who hands over as much as it may, and
    /// another's first job.
    #[test]
    fn a_tenant_with_nothing_waiting_is_never_refused_for_another() {
        let job = |tenant, n_bytes: usize| {
            let item = response(&Arc::from([TokenId(7)]), &Arc::from("x".repeat(n_bytes)));
            ScoreJob::new(vec![item], |_| ()).of(Tenant(tenant))
        };
        let (narrow, _arrivals) = queue(2, 1.0);
        let push = |tenant| narrow.push(job(tenant, 1));
        assert_eq!([push(1), push(1), push(1)], [Ok(()), Ok(()), Err(ScorerError::Full)]);
        assert_eq!([push(2), push(2), push(0)], [Ok(()), Err(ScorerError::Full), Err(ScorerError::Full)]);
        let (full, _arrivals) = queue(64, 1.0);
        assert_eq!(full.push(job(1, LANE_BYTES_MAX)), Ok(()));
        assert_eq!((full.push(job(1, 1)), full.push(job(2, 1 << 20))), (Err(ScorerError::Full), Ok(())));
        let (shared, _arrivals) = queue(4, 0.5);
        let admitted = (0..9).filter(|_| shared.push(job(1, 1)).is_ok());
        assert_eq!(admitted.count(), 2, "the rest is for others");
    }

    #[test]
    fn the_tenants_who_wait_take_turns() {
        let (queue, arrivals) = queue(64, 1.0);
        for (tenant, n) in [(1, 3), (2, 1), (3, 2)] {
            (0..n).for_each(|_| assert_eq!(queue.push(ScoreJob::new(Vec::new(), |_| ()).of(Tenant(tenant))), Ok(())));
        }
        assert_eq!(arrivals.next(|tenant| tenant == Tenant(3)).map(|job| job.tenant), Some(Tenant(3)));
        let order = std::iter::from_fn(|| arrivals.next(|_| true)).map(|job| job.tenant.0);
        assert_eq!(order.collect::<Vec<_>>(), [1, 2, 3, 1, 1]);
        assert_eq!(queue.len(), 0);
        assert!(arrivals.close().is_empty());
        assert_eq!(queue.push(ScoreJob::new(Vec::new(), |_| ())), Err(ScorerError::Closed));
    }
}
