//! Files: bits that survive, schema numbers, the folder's lock, full queues, disks that refuse.

use std::time::{Duration, Instant};

use super::{
    super::{blob, schema},
    *,
};

#[test]
fn every_bit_of_a_rollout_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut original = rollout(7, 3);
    original.response[1].log_kept_mass = -0.03;
    original.response[2].log_prob = LogProb(f32::MIN_POSITIVE / 2.0);
    original.user = Some("zoë".to_string());
    original.finish = FinishReason::Stop;
    original.sampling = SamplingParams {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        logit_bias: vec![(TokenId(3), -1.5)],
        seed: None,
        stop: vec!["\n\n".to_string(), "é".to_string()],
        stop_token_ids: vec![TokenId(9)],
        ignore_eos: true,
        constrained: true,
        ..SamplingParams::default()
    };
    let log = open(dir.path());
    log.append(original.clone()).unwrap();
    log.close();
    drop(log);
    assert_eq!(everything(&open(dir.path()))[0].rollout, original);
}

/// A log from before constraints were noted is read as one without any; today's record cut short is an error.
#[test]
fn sampling_settings_of_the_layout_before_are_read() {
    let params = SamplingParams { top_k: 7, stop_token_ids: vec![TokenId(9)], ..SamplingParams::default() };
    let mut bytes = blob::sampling(&SamplingParams { constrained: true, ..params.clone() });
    bytes.pop();
    assert!(blob::parse_sampling(&bytes).is_err());
    bytes[0] = 1;
    assert_eq!(blob::parse_sampling(&bytes), Ok(params));
    bytes[0] = 3;
    assert!(blob::parse_sampling(&bytes).unwrap_err().contains("layout"));
}

#[test]
fn appends_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..1000 {
        log.append(rollout(n, 0)).unwrap();
    }
    log.flush().unwrap();
    let counters = log.counters();
    assert_eq!(counters.committed, 1000);
    assert!(counters.commits.count <= 10, "{} transactions for 1000 exchanges", counters.commits.count);
}

#[test]
fn an_exchange_is_committed_without_anybody_asking() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while log.counters().committed == 0 {
        assert!(Instant::now() < deadline, "nothing was committed");
        std::thread::yield_now();
    }
    assert_eq!(LogReader::open(dir.path()).unwrap().stats().unwrap().n_rollouts, 1);
}

#[test]
fn the_same_id_twice_is_logged_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append(rollout(0, 0)).unwrap();
    log.append(Rollout { user: Some("other".to_string()), ..rollout(0, 0) }).unwrap();
    log.flush().unwrap();
    let rows = everything(&log);
    assert_eq!((rows.len(), rows[0].rollout.user.as_ref()), (1, None));
}

/// Goal: a full queue is an error at once, and counted. Method: a lock held by another connection stalls the writer, so the
/// queue of two must overflow however fast the machine is.
#[test]
fn a_full_queue_never_blocks_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = RolloutLog::open(dir.path(), &LogSettings { commit_ms: 1, queue: 2, ..settings() }).unwrap();
    let other = Connection::open(database(dir.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (mut n, mut n_full) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    // The writer may take what is queued once more before it meets the lock.
    while n_full < 2 {
        match log.append(rollout(n, 0)) {
            Ok(()) => n += 1,
            Err(Full) => n_full += 1,
        }
        assert!(Instant::now() < deadline, "the queue never filled");
    }
    let counters = log.counters();
    assert_eq!((counters.overflow, counters.dropped[&DropReason::QueueFull]), (2, 2));
    other.execute_batch("ROLLBACK").unwrap();
    log.flush().unwrap();
    assert_eq!(everything(&log).len(), n as usize, "what was accepted is logged");
}

/// A writer whose thread nobody has started, where its commands come from, and how many pages its file has.
fn writer_of(dir: &Path) -> (Writer, Sender<Command>, i64) {
    let connection = open_for_writing(&database(dir)).unwrap();
    let pages = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let (sender, commands) = crossbeam_channel::unbounded();
    let writer = Writer {
        connection,
        commands,
        commit_every: Duration::from_millis(1),
        rescore_on_feedback: false,
        quarantine: Quarantine::default(),
        counters: Arc::default(),
        reward_model: None,
        vocabulary: None,
        carried: Vec::new(),
        due: None,
    };
    (writer, sender, pages)
}

/// The disk is full at so many pages.
fn limit(connection: &mut Connection, pages: i64) {
    connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0)).unwrap();
}

/// Goal: a batch is there as a whole or not at all, also when the disk is full in the middle of it. Method: a command that needs
/// more pages than there are, between two that need none, after an exchange.
#[test]
fn a_command_that_finds_the_disk_full_takes_its_neighbours_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _sender, pages) = writer_of(dir.path());
    limit(&mut writer.connection, pages + 4);
    let note = |detail: String| Box::new(Act::new(&Who::cli(), Action::Pause, None).done_with(detail));
    let details = ["before".to_owned(), "x".repeat(1 << 20), "after".to_owned()];
    let (replies, answers): (Vec<_>, Vec<_>) = details.iter().map(|_| bounded(1)).unzip();
    let commands = details.iter().zip(replies).map(|(detail, reply)| Command::Audit(note(detail.clone()), reply));
    let batch = [Command::Append(Box::new(rollout(0, 0)))].into_iter().chain(commands).collect();
    assert!(!writer.commit(batch));
    for answer in answers {
        assert!(matches!(answer.recv().unwrap(), Err(LogError::Commit(_))));
    }
    let reader = LogReader::open(dir.path()).unwrap();
    assert!(reader.audit(0, 9).unwrap().is_empty(), "whoever heard that it failed left nothing");
    assert_eq!((reader.stats().unwrap().n_rollouts, writer.carried.len()), (0, 1));
    assert!(writer.commit(Vec::new()), "the exchange waited");
    assert_eq!(reader.stats().unwrap().n_rollouts, 1);
}

/// Goal: a disk that refuses loses nothing that fits in memory. Method: `max_page_count` makes SQLite answer "disk full"
/// exactly as a full disk does; lifting it is the disk being cleaned up.
#[test]
fn exchanges_wait_for_a_full_disk_to_be_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, sender, pages) = writer_of(dir.path());
    let counters = Arc::clone(&writer.counters);
    limit(&mut writer.connection, pages);
    let big = |n: u32| Rollout { prompt: vec![TokenId(0); 4096], ..rollout(n, 0) };
    let (reply, answer) = bounded(1);
    let batch = (0..8).map(|n| Command::Append(Box::new(big(n)))).chain([Command::Flush(reply)]).collect();
    assert!(!writer.commit(batch));
    assert!(matches!(answer.recv().unwrap(), Err(LogError::Commit(_))));
    assert_eq!(writer.carried.len(), 8);
    limit(&mut writer.connection, 1 << 20);
    drop(sender);
    writer.run();
    assert_eq!(LogReader::open(dir.path()).unwrap().stats().unwrap().n_rollouts, 8);
    assert_eq!(counters.write_errors.load(Ordering::Relaxed), 1);
}

#[test]
fn a_second_daemon_is_turned_away_and_told_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let error = RolloutLog::open(dir.path(), &settings()).err().unwrap().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    assert_eq!(LogReader::open(dir.path()).unwrap().stats().unwrap().n_rollouts, 0, "reading needs no lock");
    drop(log);
    open(dir.path());
}

#[test]
fn a_log_from_a_newer_honed_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let connection = Connection::open(database(dir.path())).unwrap();
    connection.pragma_update(None, "user_version", schema::CURRENT + 1).unwrap();
    let error = RolloutLog::open(dir.path(), &settings()).err().unwrap();
    assert!(matches!(error, LogError::SchemaTooNew { .. }), "{error}");
    assert_eq!(schema::number(&connection).unwrap(), schema::CURRENT + 1);
}

/// Goal: a step runs once, in order, whole or not at all. Method: today's steps plus two, the last of which fails halfway.
#[test]
fn schema_steps_run_once_and_whole() {
    let mut connection = Connection::open_in_memory().unwrap();
    let mut steps = schema::STEPS.to_vec();
    steps.push("CREATE TABLE extra (x INTEGER)");
    steps.push("CREATE TABLE half (x INTEGER); CREATE TABLE extra (x INTEGER)");
    let good = &steps[..steps.len() - 1];
    schema::migrate_through(&mut connection, good).unwrap();
    schema::migrate_through(&mut connection, good).unwrap();
    assert_eq!(schema::number(&connection).unwrap() as usize, good.len());
    schema::migrate_through(&mut connection, &steps).unwrap_err();
    assert_eq!(schema::number(&connection).unwrap() as usize, good.len());
    let n: i64 =
        connection.query_row("SELECT COUNT(*) FROM sqlite_master WHERE name = 'half'", [], |r| r.get(0)).unwrap();
    assert_eq!(n, 0);
}

#[test]
fn pages_exports_and_counts_agree() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for n in 0..600 {
        log.append(rollout(n, u64::from(n % 2))).unwrap();
    }
    log.append(Rollout { finish: FinishReason::Cancelled, ..rollout(600, 0) }).unwrap();
    log.flush().unwrap();
    let query = PageQuery { limit: 250, version: Some(PolicyVersion(1)), ..PageQuery::default() };
    let first = log.reader().page(&query).unwrap();
    let second = log.reader().page(&PageQuery { after: first.last().map(|row| row.seq), ..query.clone() }).unwrap();
    assert_eq!((first.len(), second.len()), (250, 50));
    let exported: Vec<_> = LogReader::open(dir.path()).unwrap().export(query).map(Result::unwrap).collect();
    assert_eq!(exported, [first, second].concat());
    let stats = log.reader().stats().unwrap();
    assert_eq!(stats.by_state[&RolloutState::Generated], 600);
    assert_eq!(stats.by_version[&PolicyVersion(0)], 301);
    assert_eq!(stats.dropped[&DropReason::Cancelled], 1);
    assert_eq!(log.reader().backlog(100).unwrap(), (0, 100));
}
