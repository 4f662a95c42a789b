//! Files that no row wants: ours go, others are kept.

use super::*;

fn aside(world: &World) -> PathBuf {
    world.dir.path().join("data/versions/unknown")
}

/// Goal: an older copy of the database costs no trained weights. Method: a copy, two publications, the copy put back, twice; what
/// lies aside has the bytes of what was published.
#[test]
fn versions_that_an_older_database_does_not_know_are_kept_aside() {
    let world = World::new();
    publish_next(&world.open());
    let data = world.dir.path().join("data");
    let [database, copy] = ["rollouts.sqlite", "copy"].map(|name| data.join(name));
    fs::copy(&database, &copy).unwrap();
    for round in 0..2 {
        let registry = world.open();
        for _ in 0..2 {
            let version = publish_next(&registry);
            let bytes = format!("weights of {version}, round {round}");
            fs::write(registry.path(version), bytes).unwrap();
            fs::write(registry.companion(version, "average.gguf"), format!("average, round {round}")).unwrap();
        }
        drop(registry);
        fs::copy(&copy, &database).unwrap();
        let registry = world.open();
        assert_eq!(registry.live().unwrap().version, PolicyVersion(1), "the last that the database knows");
        assert_eq!(file_names(&registry.folder), ["policy-0.gguf", "policy-1.gguf", "unknown"]);
        assert_eq!(registry.next_version().unwrap(), PolicyVersion(2));
        registry.discard(PolicyVersion(2));
    }
    let stems = ["policy-2", "policy-2-2", "policy-3", "policy-3-2"];
    let mut expected: Vec<String> =
        stems.iter().flat_map(|stem| [format!("{stem}.average.gguf"), format!("{stem}.gguf")]).collect();
    expected.sort();
    assert_eq!(file_names(&aside(&world)), expected);
    for (name, bytes) in [
        ("policy-3.gguf", "weights of policy@3, round 0"),
        ("policy-3-2.gguf", "weights of policy@3, round 1"),
        ("policy-3-2.average.gguf", "average, round 1"),
    ] {
        assert_eq!(fs::read_to_string(aside(&world).join(name)).unwrap(), bytes, "{name}");
    }
}

/// Goal: what somebody keeps beside the versions stays, and keeps nobody from starting. Method: folders and files whose names begin
/// as ours do, in both folders, over more starts than the bound.
#[test]
fn folders_and_notes_of_others_are_left_alone() {
    let world = World::new();
    drop(world.open());
    let versions = world.dir.path().join("data/versions");
    for folder in [versions.join("policy-7.old"), aside(&world), aside(&world).join("policy-50.gguf")] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(aside(&world).join("policy-notes.txt"), "mine").unwrap();
    for n in 50..64_u64 {
        fs::write(versions.join(format!("policy-{n}.gguf")), "x").unwrap();
        drop(world.open());
    }
    assert!(versions.join("policy-7.old").is_dir() && aside(&world).join("policy-50.gguf").is_dir());
    assert!(aside(&world).join("policy-notes.txt").exists());
    assert_eq!(file_names(&aside(&world)).len(), 10 + 2, "the bound, and what is not ours");
}

/// Goal: what is moved aside is bounded, and the newest of it stays. Method: more strangers than the bound, each older than the
/// one before it.
#[test]
fn what_lies_aside_is_bounded() {
    let world = World::new();
    let registry = world.open();
    let now = std::time::SystemTime::now();
    for n in 50..60_u64 {
        let file = fs::File::create(registry.path(PolicyVersion(n))).unwrap();
        file.set_modified(now - std::time::Duration::from_secs(n)).unwrap();
    }
    drop(registry);
    let own = aside(&world).join("notes.txt");
    fs::create_dir(aside(&world)).unwrap();
    fs::write(&own, b"an operator's").unwrap();
    world.open_with(3).unwrap();
    let expected: Vec<String> = (50..55).map(|n| format!("policy-{n}.gguf")).collect();
    assert_eq!(file_names(&aside(&world)), [&["notes.txt".to_owned()][..], &expected].concat());
}

/// Goal: what dies between its file and its row leaves nothing, whatever else has taken a number meanwhile. Method: three numbers,
/// the second of them published, the others written only, and a file that nobody wrote here.
#[test]
fn half_published_candidates_are_told_from_strangers() {
    let world = World::new();
    let registry = world.open();
    let [first, third] = {
        let first = registry.next_version().unwrap();
        publish_next(&registry);
        [first, registry.next_version().unwrap()]
    };
    for version in [first, third] {
        fs::write(registry.path(version), b"x").unwrap();
    }
    let stranger = PolicyVersion(7);
    fs::write(registry.path(stranger), b"y").unwrap();
    drop(registry);
    let registry = world.open();
    assert_eq!(file_names(&registry.folder), ["policy-0.gguf", "policy-2.gguf", "unknown"]);
    assert_eq!(file_names(&aside(&world)), ["policy-7.gguf"]);
}

/// A number that was given and came to nothing leaves no mark, and one that was registered neither.
#[test]
fn marks_go_with_their_reason() {
    let world = World::new();
    let registry = world.open();
    let discarded = registry.next_version().unwrap();
    assert_eq!(file_names(&registry.folder), ["policy-0.gguf", "policy-1.unregistered"]);
    registry.discard(discarded);
    publish_next(&registry);
    assert_eq!(file_names(&registry.folder), ["policy-0.gguf", "policy-2.gguf"]);
}
