//! The registry over real files. Their bytes need not be a model: the registry knows digests, not weights.

mod orphans;

use std::fs;

use policy::{checkpoint::Digest, engine::InMemory};

use super::*;
use crate::rollout_log::{Averaged, LogSettings};

struct World {
    dir: tempfile::TempDir,
    sft: PathBuf,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let sft = dir.path().join("sft.gguf");
        fs::write(&sft, b"weights of version 0").unwrap();
        World { dir, sft }
    }

    fn log(&self) -> Result<RolloutLog, LogError> {
        let settings = LogSettings { commit_ms: 1, queue: 16, rescore_on_feedback: false };
        RolloutLog::open(&self.dir.path().join("data"), &settings)
    }

    fn open_with(&self, n_kept: usize) -> Result<Registry, RegistryError> {
        Registry::open(self.log()?, &self.sft, n_kept)
    }

    fn open(&self) -> Registry {
        self.open_with(8).unwrap()
    }
}

/// Writes and registers the next candidate, its bytes its number.
fn stage(registry: &Registry) -> PolicyVersion {
    let version = registry.next_version().unwrap();
    let bytes = format!("weights of {version}");
    fs::write(registry.path(version), &bytes).unwrap();
    let parent = registry.live().unwrap().version;
    let digest = Digest::of(bytes.as_bytes());
    registry.register(&Candidate { version, parent, digest, n_rollouts: 4 }).unwrap();
    version
}

fn publish_next(registry: &Registry) -> PolicyVersion {
    let version = stage(registry);
    registry.publish(version, Vec::new(), BTreeMap::from([("objective/kl".to_string(), 0.5)])).unwrap();
    version
}

fn file_names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// These are in memory, and all but version 0 are about to leave it.
fn leaving(versions: &[PolicyVersion]) -> Vec<InMemory> {
    let one = |&version| InMemory { version, is_leaving: version != PolicyVersion::SFT };
    versions.iter().map(one).collect()
}

fn states(registry: &Registry) -> Vec<VersionState> {
    registry.rows().unwrap().iter().map(|row| row.state).collect()
}

use VersionState::{Candidate as Staged, Draining, Live, Rejected, Retained, Retired};

#[test]
fn version_0_is_copied_once_and_other_weights_are_refused() {
    let world = World::new();
    let registry = world.open();
    let live = registry.live().unwrap();
    assert_eq!((live.version, live.parent), (PolicyVersion::SFT, None));
    assert_eq!(fs::read(&live.path).unwrap(), fs::read(&world.sft).unwrap());
    drop(registry);
    fs::write(&world.sft, b"somebody else's weights").unwrap();
    let Err(error @ RegistryError::OtherModel { .. }) = world.open_with(8) else { panic!("other weights") };
    // Whoever has lost the file is told where it still is, and that is so.
    let own = live.path.display().to_string();
    assert!(error.to_string().contains(&format!("lies at {own} and can be given as --model")), "{error}");
    let again = Registry::open(world.log().unwrap(), &live.path, 8).unwrap();
    assert_eq!(again.live().unwrap().digest, live.digest);
}

/// Goal: a model that does not start claims no folder, and one that something came of keeps it. Method: a folder is adopted and left,
/// opened and withdrawn, and withdrawn once more with a version in it; each time with other weights.
#[test]
fn a_folder_is_nobodys_until_its_model_has_started() {
    let world = World::new();
    let log = world.log().unwrap();
    let versions = log.data_dir().join("versions");
    let adoption = Registry::adopt(log.clone(), &world.sft, 8).unwrap();
    assert!(adoption.is_first() && adoption.file().exists());
    assert!(log.reader().versions().unwrap().is_empty(), "the row comes last");
    drop(adoption);
    assert!(file_names(&versions).is_empty());

    fs::write(&world.sft, b"other weights").unwrap();
    let registry = Registry::open(log.clone(), &world.sft, 8).unwrap();
    registry.withdraw().unwrap();
    assert!(registry.rows().unwrap().is_empty() && file_names(&versions).is_empty());

    fs::write(&world.sft, b"weights that serve").unwrap();
    let registry = Registry::open(log.clone(), &world.sft, 8).unwrap();
    publish_next(&registry);
    registry.withdraw().unwrap();
    assert_eq!(states(&registry), [Draining, Live]);
    assert!(!Registry::adopt(log, &world.sft, 8).unwrap().is_first());
    assert!(registry.path(PolicyVersion::SFT).exists());
}

/// What a start that was killed before the row leaves is no obstacle to the next.
#[test]
fn a_copy_without_a_row_is_written_over() {
    let world = World::new();
    let log = world.log().unwrap();
    fs::create_dir_all(log.data_dir().join("versions")).unwrap();
    fs::write(log.data_dir().join("versions/policy-0.gguf"), b"another model").unwrap();
    let registry = Registry::open(log, &world.sft, 8).unwrap();
    assert_eq!(fs::read(registry.live().unwrap().path).unwrap(), fs::read(&world.sft).unwrap());
}

#[test]
fn a_damaged_version_0_is_restored_from_the_given_model() {
    let world = World::new();
    let path = world.open().path(PolicyVersion::SFT);
    fs::write(&path, b"bit rot").unwrap();
    let registry = world.open();
    assert_eq!(fs::read(path).unwrap(), fs::read(&world.sft).unwrap());
    assert_eq!(registry.live().unwrap().version, PolicyVersion::SFT);
}

#[test]
fn a_published_version_is_live_and_keeps_its_numbers() {
    let world = World::new();
    let registry = world.open();
    let one = publish_next(&registry);
    assert_eq!(states(&registry), [Draining, Live]);
    drop(registry);
    let registry = world.open();
    assert_eq!(states(&registry), [Retained, Live], "nothing drains in a new process");
    let row = registry.live().unwrap();
    assert_eq!((row.version, row.parent, row.n_rollouts), (one, Some(PolicyVersion::SFT), 4));
    assert_eq!(row.numbers["objective/kl"], 0.5);
}

#[test]
fn a_candidate_that_a_crash_left_is_rejected_and_its_number_never_reused() {
    let world = World::new();
    let registry = world.open();
    let staged = stage(&registry);
    let number = registry.next_version().unwrap();
    let never_registered = registry.path(number);
    let half_written = registry.path(PolicyVersion(3)).with_extension("gguf.partial");
    fs::write(&never_registered, b"x").unwrap();
    fs::write(&half_written, b"x").unwrap();
    drop(registry);
    let registry = world.open();
    assert_eq!(states(&registry), [Live, Rejected]);
    let row = registry.row(staged).unwrap().unwrap();
    assert!(!row.has_verdict() && row.reason.unwrap().contains("ended before"), "nobody has judged it");
    let mark = registry.companion(number, files::UNREGISTERED);
    for gone in [registry.path(staged), never_registered, half_written, mark] {
        assert!(!gone.exists(), "{} is an orphan", gone.display());
    }
    assert_eq!(registry.next_version().unwrap(), number);
}

#[test]
fn a_damaged_live_version_gives_way_to_its_nearest_good_ancestor() {
    let world = World::new();
    let registry = world.open();
    for _ in 0..3 {
        publish_next(&registry);
    }
    fs::write(registry.path(PolicyVersion(3)), b"bit rot").unwrap();
    fs::remove_file(registry.path(PolicyVersion(2))).unwrap();
    drop(registry);
    let registry = world.open();
    assert_eq!(states(&registry), [Retained, Live, Retired, Retired]);
    assert!(registry.rows().unwrap()[3].reason.as_ref().unwrap().contains("expected digest"));
    assert!(!registry.path(PolicyVersion(3)).exists());
    let next = publish_next(&registry);
    assert_eq!((next, registry.row(next).unwrap().unwrap().parent), (PolicyVersion(4), Some(PolicyVersion(1))));
}

/// Goal: a start that dies while it repairs leaves what the next one needs: whose ancestors to look at. Method: version 1 is live and
/// damaged, version 2 was left for it; a trigger refuses what goes live, so that no repair comes to its end.
#[test]
fn a_repair_is_done_as_a_whole_or_not_at_all() {
    let world = World::new();
    let registry = world.open();
    let (one, two) = (publish_next(&registry), publish_next(&registry));
    registry.activate(one, None).unwrap();
    fs::write(registry.path(one), b"bit rot").unwrap();
    drop(registry);
    let connection = rusqlite::Connection::open(world.dir.path().join("data/rollouts.sqlite")).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER death BEFORE UPDATE ON versions WHEN NEW.state = 'live'
             BEGIN SELECT RAISE(ABORT, 'death'); END;",
        )
        .unwrap();
    assert!(world.open_with(8).is_err());
    connection.execute_batch("DROP TRIGGER death").unwrap();
    drop(connection);
    let registry = world.open();
    assert_eq!(states(&registry), [Live, Retired, Retained], "{two} was left, and does not come back by itself");
    let acts = registry.log.reader().audit(0, 99).unwrap().into_iter().rev().take(2);
    let acts: Vec<_> = acts.map(|row| (row.act.action.as_str(), row.act.subject.unwrap())).collect();
    assert_eq!(acts, [("activate", "policy@0".to_string()), ("retire", "policy@1".to_string())]);
}

#[test]
fn a_rejected_candidate_leaves_the_live_one_and_no_file() {
    let world = World::new();
    let registry = world.open();
    let version = stage(&registry);
    assert_eq!(states(&registry), [Live, Staged]);
    fs::write(registry.companion(version, "moments.safetensors"), b"m").unwrap();
    registry.reject(version, "KL above its budget", Vec::new(), BTreeMap::new()).unwrap();
    assert_eq!(states(&registry), [Live, Rejected]);
    assert!(!registry.path(version).exists() && !registry.companion(version, "moments.safetensors").exists());
    assert!(registry.activate(version, None).is_err());
    assert!(registry.publish(version, Vec::new(), BTreeMap::new()).is_err());
    assert_eq!(states(&registry), [Live, Rejected], "a refused step changes nothing");
}

#[test]
fn activation_is_compare_and_set() {
    let world = World::new();
    let registry = world.open();
    let one = publish_next(&registry);
    let two = publish_next(&registry);
    let lost = registry.activate(one, Some(one));
    assert!(matches!(lost, Err(RegistryError::Log(LogError::LiveChanged { found, .. })) if found == two));
    assert_eq!(registry.activate(one, Some(two)).unwrap(), two);
    assert_eq!(registry.live().unwrap().version, one);
    assert_eq!(registry.activate(one, None).unwrap(), one, "to activate the live one changes nothing");
    assert_eq!(states(&registry), [Draining, Live, Draining]);
}

/// Goal: what cannot be activated says why, before anything is read for it. Method: each state that a version can be in.
#[test]
fn what_may_be_activated_is_known_before_anything_is_read() {
    let world = World::new();
    let registry = world.open_with(1).unwrap();
    let (one, two, three) = (publish_next(&registry), publish_next(&registry), publish_next(&registry));
    registry.retain(&leaving(&[PolicyVersion::SFT])).unwrap();
    assert_eq!(states(&registry), [Retained, Retired, Retained, Live]);
    // A file that is not there is no matter yet.
    fs::remove_file(registry.path(two)).unwrap();
    for good in [PolicyVersion::SFT, two, three] {
        assert_eq!(registry.may_activate(good, Some(three)).unwrap().version, good);
    }
    let refused = |version, expected| registry.may_activate(version, expected).unwrap_err().to_string();
    assert_eq!(refused(one, None), "policy@1 is retired and its file removed: beyond ppo.keep_versions");
    assert_eq!(refused(two, Some(one)), "live version: expected policy@1, found policy@3");
    let candidate = stage(&registry);
    assert_eq!(refused(candidate, None), "policy@4: expected state retained, found candidate");
    assert_eq!(refused(PolicyVersion(9), None), "policy@9 is not in the registry");
}

#[test]
fn a_missing_file_is_named_once() {
    let world = World::new();
    let registry = world.open();
    let one = publish_next(&registry);
    let path = registry.path(one);
    fs::remove_file(&path).unwrap();
    let error = registry.verify(one).unwrap_err().to_string();
    assert_eq!(error.matches(path.to_str().unwrap()).count(), 1, "{error}");
    drop(registry);
    let reason = world.open().row(one).unwrap().unwrap().reason.unwrap();
    assert!(reason.contains("missing") && !reason.contains('/'), "clients read it: {reason}");
}

#[test]
fn lineage_follows_parents_through_a_rollback() {
    let world = World::new();
    let registry = world.open();
    let one = publish_next(&registry);
    publish_next(&registry);
    registry.activate(one, None).unwrap();
    let three = publish_next(&registry);
    assert_eq!(registry.lineage(three, 1).unwrap(), [three, one]);
    assert_eq!(registry.lineage(three, 9).unwrap(), [three, one, PolicyVersion::SFT]);
}

/// Goal: bounded files, and never a needed one gone. Method: six versions, two kept, one old one still in memory.
#[test]
fn retention_spares_version_0_the_live_one_and_what_is_in_memory() {
    let world = World::new();
    let registry = world.open_with(2).unwrap();
    for _ in 0..6 {
        publish_next(&registry);
    }
    registry.retain(&leaving(&[PolicyVersion(0), PolicyVersion(1), PolicyVersion(6)])).unwrap();
    assert_eq!(states(&registry), [Retained, Draining, Retired, Retired, Retained, Retained, Live]);
    let on_disk = |n: u64| registry.path(PolicyVersion(n)).exists();
    assert_eq!((0..7).map(on_disk).collect::<Vec<_>>(), [true, true, false, false, true, true, true]);
    drop(registry);
    world.open_with(2).unwrap().retain(&leaving(&[PolicyVersion(0), PolicyVersion(6)])).unwrap();
    let registry = world.open_with(2).unwrap();
    assert_eq!(states(&registry), [Retained, Retired, Retired, Retired, Retained, Retained, Live]);
}

/// Goal: an average is kept like any version, and never costs the way back. Method: two versions and the average of the second, with
/// room for one and for two; then the average is activated and learnt from, and left again.
#[test]
fn an_average_goes_before_the_version_that_a_rollback_could_go_to() {
    let world = World::new();
    let registry = world.open_with(2).unwrap();
    let (_, two) = (publish_next(&registry), publish_next(&registry));
    let average = registry.next_version().unwrap();
    fs::write(registry.path(average), b"average").unwrap();
    let candidate = Candidate { version: average, parent: two, digest: Digest::of(b"average"), n_rollouts: 0 };
    let of = Averaged { first: PolicyVersion::SFT, last: two, decay: 0.5 };
    registry.register_with(&candidate, of.numbers()).unwrap();
    registry.keep(average, BTreeMap::new()).unwrap();
    assert_eq!(registry.row(average).unwrap().unwrap().averaged(), Some(of));
    let retain = || registry.retain(&leaving(&[PolicyVersion::SFT])).unwrap();
    let beyond_one = || -> Vec<u64> {
        let keep = Retention { versions: 1, bytes: u64::MAX };
        registry.surplus(keep, &[]).unwrap().into_iter().map(|surplus| surplus.version.0).collect()
    };
    retain();
    assert_eq!(states(&registry), [Retained, Retained, Live, Retained]);
    assert_eq!(beyond_one(), [3], "version 1 is the way back");
    registry.activate(average, None).unwrap();
    let child = publish_next(&registry);
    retain();
    assert_eq!(states(&registry), [Retained, Retired, Retained, Retained, Live]);
    assert_eq!(beyond_one(), [2], "the average is the way back");
    registry.activate(two, Some(child)).unwrap();
    retain();
    assert_eq!(beyond_one(), [3], "it is not any more");
}

#[test]
fn an_unwritable_folder_is_an_error_and_the_live_version_stays() {
    let world = World::new();
    let registry = world.open();
    let one = publish_next(&registry);
    drop(registry);
    // A file where the folder should be fails for root too, unlike a permission.
    let aside = world.dir.path().join("data/aside");
    fs::rename(world.dir.path().join("data/versions"), &aside).unwrap();
    fs::write(world.dir.path().join("data/versions"), b"").unwrap();
    assert!(matches!(world.open_with(8), Err(RegistryError::Io { .. })));
    fs::remove_file(world.dir.path().join("data/versions")).unwrap();
    fs::rename(&aside, world.dir.path().join("data/versions")).unwrap();
    assert_eq!(world.open().live().unwrap().version, one);
}

/// Goal: bytes are a bound too, but never cost the last way back. Method: versions whose files weigh 100 bytes and their
/// companions as much again, by several bounds.
#[test]
fn old_versions_go_beyond_a_number_of_bytes() {
    let world = World::new();
    let registry = world.open_with(100).unwrap();
    for _ in 0..5 {
        let version = stage(&registry);
        fs::write(registry.path(version), [0; 100]).unwrap();
        fs::write(registry.companion(version, "moments"), [0; 100]).unwrap();
        registry.publish(version, Vec::new(), BTreeMap::new()).unwrap();
    }
    let live = registry.live().unwrap().version;
    registry.retain(&leaving(&[PolicyVersion::SFT, live])).unwrap();
    let surplus = |bytes: u64, versions: usize| -> Vec<(u64, u64)> {
        let surplus = registry.surplus(Retention { versions, bytes }, &[PolicyVersion::SFT, live]).unwrap();
        surplus.into_iter().map(|surplus| (surplus.version.0, surplus.bytes)).collect()
    };
    assert_eq!(surplus(u64::MAX, 100), []);
    assert_eq!(surplus(400, 100), [(1, 200), (2, 200)]);
    assert_eq!(surplus(599, 100), [(1, 200), (2, 200)]);
    assert_eq!(surplus(1, 100), [(1, 200), (2, 200), (3, 200)], "one step back stays possible");
    assert_eq!(surplus(u64::MAX, 3), [(1, 200)]);
    registry.clone().keeping_bytes(400).retain(&leaving(&[PolicyVersion::SFT, live])).unwrap();
    assert_eq!(states(&registry), [Retained, Retired, Retired, Retained, Retained, Live]);
    let reason = registry.row(PolicyVersion(1)).unwrap().unwrap().reason;
    assert_eq!(reason.as_deref(), Some("beyond ppo.keep_versions_mib"));
    assert!(!registry.path(PolicyVersion(2)).exists() && registry.path(PolicyVersion(3)).exists());
}

/// Goal: trained weights are never taken for rubbish because the database that knows them is gone. Method: publish, take the
/// database away, open; put it back, open.
#[test]
fn versions_without_their_database_are_refused_and_kept() {
    let world = World::new();
    let registry = world.open();
    let version = publish_next(&registry);
    let file = registry.path(version);
    drop(registry);
    let data = world.dir.path().join("data");
    let [there, aside] = ["rollouts.sqlite", "aside"].map(|name| data.join(name));
    Registry::check_unclaimed(&data).unwrap();
    fs::rename(&there, &aside).unwrap();
    let error = Registry::check_unclaimed(&data).unwrap_err();
    assert!(matches!(error, RegistryError::Unclaimed { n_files: 1, .. }), "{error}");
    for _ in 0..2 {
        let error = world.open_with(8).map(drop).unwrap_err();
        assert!(matches!(error, RegistryError::Unclaimed { n_files: 1, .. }), "{error}");
    }
    assert!(file.exists());
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(data.join(format!("rollouts.sqlite{ending}")));
    }
    fs::rename(&aside, &there).unwrap();
    assert_eq!(world.open().live().unwrap().version, version);
}

#[test]
fn files_of_other_names_are_nobodys_to_remove() {
    let world = World::new();
    let registry = world.open();
    let (own, half) = (registry.folder.join("policy-0-mine.gguf"), registry.folder.join("policy-7.gguf.partial"));
    for file in [&own, &half] {
        fs::write(file, b"x").unwrap();
    }
    drop(registry);
    world.open();
    assert!(own.exists() && !half.exists());
}

#[test]
fn who_does_not_know_the_model_cannot_repair_version_0() {
    let world = World::new();
    let registry = world.open();
    let file = registry.path(PolicyVersion::SFT);
    let log = registry.log.clone();
    drop(registry);
    assert_eq!(Registry::reopen(log.clone(), 8).unwrap().live().unwrap().version, PolicyVersion::SFT);
    fs::write(&file, b"other bytes").unwrap();
    let error = Registry::reopen(log, 8).map(drop).unwrap_err();
    assert!(matches!(error, RegistryError::Damaged { version: PolicyVersion::SFT, .. }), "{error}");
}
