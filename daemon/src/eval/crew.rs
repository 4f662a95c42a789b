//! Work that needs nobody else's result, on all cores.
//!
//! Each worker trains in a pool of one thread: matrices this small do not split well, and since the number of threads
//! decides how batches are cut, one thread a job gives the same numbers on every machine.

use std::sync::Mutex;

use policy::threads;

use super::Result;

/// Does every job and returns the results in the order of the jobs; after a failure no new one is begun.
pub(super) fn all<J: Send, T: Send>(jobs: Vec<J>, work: impl Fn(J) -> Result<T> + Sync) -> Result<Vec<T>> {
    let n_workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let n_jobs = jobs.len();
    let waiting = Mutex::new(jobs.into_iter().enumerate());
    let done: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(n_jobs));
    let next = || waiting.lock().expect("no holder of this lock panics").next();
    let failed = || done.lock().expect("no holder of this lock panics").iter().any(|(_, result)| result.is_err());
    let worker = || -> Result<()> {
        let pool = threads::pool("shapes", 1, || ())?;
        while let Some((index, job)) = next().filter(|_| !failed()) {
            let result = pool.install(|| work(job));
            done.lock().expect("no holder of this lock panics").push((index, result));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_workers).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a worker panicked".into())));
        ended.collect::<Result<Vec<()>>>()
    })?;
    let mut done = done.into_inner().expect("no holder of this lock panics");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn results_come_in_the_order_of_the_jobs_and_one_failure_is_the_answer() {
        let squares = all((0..50).collect(), |n: u64| Ok(n * n)).unwrap();
        assert_eq!(squares, (0..50).map(|n| n * n).collect::<Vec<_>>());
        let failed = all((0..50).collect(), |n: u64| if n == 7 { Err("seven".into()) } else { Ok(n) });
        assert_eq!(failed.unwrap_err().to_string(), "seven");
    }
}
