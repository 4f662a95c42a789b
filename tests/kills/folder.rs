//! A data directory, and what it must hold after each death.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use policy::{PolicyVersion, RolloutId, checkpoint};
use ppo::{
    RolloutLog,
    rollout_log::{
        Action, AuditRow, Feedback, LogReader, LogSettings, LoggedRollout, PageQuery, RolloutState, Seq, VersionRow,
        VersionState,
    },
};

use super::{
    clients::{LEAVER, Promise},
    faults::exchange,
};

/// Exchanges that are older than what is kept.
const N_OLD: usize = 1200;

/// What must be there from now on.
pub(super) struct Ledger {
    data: PathBuf,
    promises: Vec<Promise>,
    /// Exchanges that were seen committed.
    rows: BTreeMap<Seq, (RolloutId, RolloutState, Option<PolicyVersion>)>,
    n_damaged: u64,
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) n_rollouts: usize,
    pub(super) n_feedback: usize,
    pub(super) n_updates: usize,
    pub(super) n_promoted: usize,
    pub(super) n_versions: usize,
    pub(super) n_imports: usize,
    pub(super) n_averages: usize,
    pub(super) n_damaged: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { n_rollouts, n_feedback, n_updates, n_promoted, n_versions, n_imports, n_averages, n_damaged } =
            self;
        write!(
            f,
            "{n_rollouts} exchanges, {n_feedback} answered feedbacks, {n_updates} updates ({n_promoted} promoted), {n_versions} versions, \
             {n_imports} imports, {n_averages} averages of weights, {n_damaged} files damaged by hand; 0 lost, 0 trained twice, 0 torn"
        )
    }
}

type Row = (Seq, RolloutId, RolloutState, Option<PolicyVersion>);

impl Ledger {
    pub(super) fn new(data: &Path) -> Ledger {
        Ledger { data: data.to_owned(), promises: Vec::new(), rows: BTreeMap::new(), n_damaged: 0 }
    }

    fn reader(&self) -> Option<LogReader> {
        // Whoever died before the log had a schema left nothing to be read.
        let reader = LogReader::open(&self.data).ok()?;
        reader.versions().ok().map(|_| reader)
    }

    fn all(&self, reader: &LogReader) -> Vec<LoggedRollout> {
        reader.page(&PageQuery { limit: 1_000_000, ..PageQuery::default() }).expect("every row can be read")
    }

    /// Exchanges that are committed now.
    pub(super) fn committed(&self) -> Vec<Row> {
        let Some(reader) = self.reader() else { return Vec::new() };
        let after = self.rows.keys().next_back().copied();
        let query = PageQuery { limit: 1_000_000, after, ..PageQuery::default() };
        let rows = reader.page(&query).expect("every row can be read");
        let lasting = rows.into_iter().filter(|row| !is_transient(row));
        lasting.map(|row| (row.seq, row.rollout.id, row.state, row.trained_version)).collect()
    }

    pub(super) fn newest_version(&self) -> Option<PolicyVersion> {
        self.reader()?.newest_version().expect("readable")
    }

    /// What a life has promised.
    pub(super) fn expect(&mut self, rows: Vec<Row>, promises: Vec<Promise>) {
        self.rows.extend(rows.into_iter().map(|(seq, id, state, version)| (seq, (id, state, version))));
        self.promises.extend(promises);
    }

    /// Nothing is lost, nothing trained twice. Also what is seen now must stay.
    pub(super) fn check_folder(&mut self) {
        let Some(reader) = self.reader() else {
            assert!(self.rows.is_empty(), "the log is gone");
            return;
        };
        let found: BTreeMap<Seq, LoggedRollout> = self.all(&reader).into_iter().map(|row| (row.seq, row)).collect();
        for (seq, (id, state, version)) in &self.rows {
            let row = found.get(seq).unwrap_or_else(|| panic!("lost: exchange {seq:?}, {id:?}"));
            assert_eq!(&row.rollout.id, id, "another exchange at {seq:?}");
            if matches!(state, RolloutState::Trained | RolloutState::Dropped | RolloutState::Expired) {
                assert_eq!((row.state, row.trained_version), (*state, *version), "an end that was not one: {id:?}");
            }
        }
        let by_id: BTreeMap<&str, &LoggedRollout> =
            found.values().map(|row| (row.rollout.id.request.as_str(), row)).collect();
        for Promise { id, user, score } in &self.promises {
            let row = by_id.get(id.as_str()).unwrap_or_else(|| panic!("lost: the exchange of answered feedback, {id}"));
            let is_there = |said: &Feedback| said.user.as_deref() == Some(user) && said.score == Some(*score);
            assert!(row.feedback.iter().any(is_there), "lost: answered feedback on {id}");
        }
        check_updates(&reader, &found);
        check_audit(&reader);
        let lasting = found.into_values().filter(|row| !is_transient(row));
        self.rows = lasting.map(|row| (row.seq, (row.rollout.id, row.state, row.trained_version))).collect();
    }

    /// Puts exchanges into a folder that nobody has which are older than what is kept, more than one transaction removes.
    pub(super) fn add_old_exchanges(&self) {
        let settings = LogSettings { commit_ms: 1, queue: N_OLD, rescore_on_feedback: false };
        let log = RolloutLog::open(&self.data, &settings).expect("a log");
        (0..N_OLD).for_each(|n| log.append(exchange(&format!("old-{n}"))).expect("room"));
        log.close();
    }

    /// Waits for a daemon to have removed them.
    pub(super) fn until_old_exchanges_are_gone(&self, patience: Duration) {
        let reader = self.reader().expect("a log");
        let until = Instant::now() + patience;
        while self.all(&reader).iter().any(is_old) {
            assert!(Instant::now() < until, "exchanges that are older than what is kept are still there");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a start must have made good: `before`, the newest version at death; `answered`, who serves (`None`: nobody knows).
    pub(super) fn check_restart(&self, before: Option<PolicyVersion>, answered: Option<&str>) {
        let reader = self.reader().expect("a log");
        let rows = reader.versions().expect("readable");
        let live: Vec<&VersionRow> = rows.iter().filter(|row| row.state == VersionState::Live).collect();
        assert_eq!(live.len(), 1, "one version is live");
        let strangers = self.data.join("versions/unknown");
        assert!(!strangers.exists(), "what a death left was taken for somebody else's: {}", strangers.display());
        let is_old = |row: &&VersionRow| before.is_some_and(|before| row.version <= before);
        for row in rows.iter().filter(is_old) {
            assert_ne!(row.state, VersionState::Candidate, "{} is nobody's candidate", row.version);
            self.check_file(&reader, row);
        }
        if let Some(answered) = answered {
            let states: BTreeMap<String, VersionState> = reader
                .versions()
                .expect("readable")
                .into_iter()
                .map(|row| (row.version.to_string(), row.state))
                .collect();
            let state = states.get(answered).unwrap_or_else(|| panic!("{answered} answered, and has no row"));
            let served = [VersionState::Live, VersionState::Draining, VersionState::Retained];
            assert!(served.contains(state), "{answered} answered, and is {state:?}");
        }
    }

    fn check_file(&self, reader: &LogReader, row: &VersionRow) {
        let path = self.data.join("versions").join(&row.path);
        match row.state {
            VersionState::Live | VersionState::Retained => {
                let digest =
                    checkpoint::digest(&path).map_or_else(|error| error.to_string(), |digest| digest.to_string());
                // Retention may have removed it since the rows were read; then its row says so.
                let now = reader.version(row.version).expect("readable").map(|row| row.state);
                assert!(digest == row.digest || now == Some(VersionState::Retired), "torn: {}: {digest}", row.version);
            }
            VersionState::Rejected | VersionState::Retired => {
                // The row goes first, the file a moment later.
                let until = Instant::now() + Duration::from_secs(5);
                while path.exists() {
                    assert!(Instant::now() < until, "{} is {}, and has a file", row.version, row.state.as_str());
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            VersionState::Candidate | VersionState::Draining => {}
        }
    }

    /// Turns one bit of the live version's file, unless that is version 0, which is restored instead of given up.
    pub(super) fn damage_live_version(&mut self) {
        let live = self.reader().and_then(|reader| reader.live_version().expect("readable"));
        let Some(live) = live.filter(|row| row.version != PolicyVersion::SFT) else { return };
        let path = self.data.join("versions").join(&live.path);
        let mut bytes = fs::read(&path).expect("the live version's file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("room");
        self.n_damaged += 1;
    }

    pub(super) fn report(&self) -> Report {
        let reader = self.reader().expect("a log");
        let n_updates = reader.newest_update().expect("readable").map_or(0, |row| row.start.number as usize + 1);
        let is_promoted = |number: &u64| {
            let end = reader.update(*number).expect("readable").and_then(|row| row.end);
            end.is_some_and(|end| end.outcome.as_str() == "promoted")
        };
        let versions = reader.versions().expect("readable");
        Report {
            n_promoted: (0..n_updates as u64).filter(is_promoted).count(),
            n_rollouts: self.rows.len(),
            n_feedback: self.promises.len(),
            n_updates,
            n_versions: versions.len(),
            n_imports: reader.imports().expect("readable").len(),
            n_averages: versions.iter().filter(|row| row.averaged().is_some()).count(),
            n_damaged: self.n_damaged,
        }
    }
}

fn is_old(row: &LoggedRollout) -> bool {
    row.rollout.created_ms == 0
}

/// Whether an exchange may leave the log: because of its age, or because its user wants to be forgotten.
fn is_transient(row: &LoggedRollout) -> bool {
    is_old(row) || row.rollout.user.as_deref() == Some(LEAVER)
}

/// Whoever is live was made so by somebody, and whatever was refused was refused by somebody.
fn check_audit(reader: &LogReader) {
    let rows = reader.audit(0, 1_000_000).expect("readable");
    let makes_live = |row: &&AuditRow| {
        row.is_done && matches!(row.act.action, Action::Activate | Action::Rollback | Action::Promote)
    };
    let last = rows.iter().rev().find(makes_live).and_then(|row| row.act.subject.clone());
    if let (Some(live), Some(last)) = (reader.live_version().expect("readable"), last) {
        assert_eq!(live.version.to_string(), last, "the audit log has another version live");
    }
    for row in reader.versions().expect("readable").iter().filter(|row| row.state == VersionState::Rejected) {
        let name = Some(row.version.to_string());
        let tells =
            |told: &AuditRow| told.act.subject == name && matches!(told.act.action, Action::Reject | Action::Import);
        assert!(rows.iter().any(tells), "{} was rejected by nobody", row.version);
    }
}

/// Every ended update has rollouts of its own, and its version those that its row counts.
fn check_updates(reader: &LogReader, found: &BTreeMap<Seq, LoggedRollout>) {
    let Some(newest) = reader.newest_update().expect("readable") else { return };
    let mut used_once = BTreeSet::new();
    for number in 0..=newest.start.number {
        let Some(end) = reader.update(number).expect("readable").and_then(|row| row.end) else { continue };
        let used = reader.used_rollouts(number).expect("readable");
        for row in &used {
            assert!(used_once.insert(row.seq), "trained twice: {:?} in update {number} and before", row.seq);
        }
        let Some(version) = end.version else { continue };
        let row = reader.version(version).expect("readable").unwrap_or_else(|| panic!("torn: {version} has no row"));
        assert_eq!(Some(&row.digest), end.digest.as_ref(), "torn: {version} and update {number}");
        let is_trained = |seq: &Seq| found[seq].trained_version == Some(version);
        let n_trained = used.iter().filter(|row| is_trained(&row.seq)).count() as u64;
        let n_expected = if end.outcome.as_str() == "promoted" { row.n_rollouts } else { 0 };
        assert_eq!(n_trained, n_expected, "{version} counts other rollouts than it trained on");
    }
    let n_trained = found.values().filter(|row| row.state == RolloutState::Trained);
    for row in n_trained {
        assert!(used_once.contains(&row.seq), "{:?} is trained, and no update used it", row.seq);
    }
}
