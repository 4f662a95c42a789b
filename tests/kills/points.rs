//! Failpoints that random lives never or seldom come by: each kills once, and the next start makes good what it left.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
};

use serde_json::json;

use super::{answers, clients::post, folder::Ledger, halts::eventually};
use crate::harness::{model, process::Process, versions::publish_versions};

/// Where SQLite's header has the number that says whether deleted bytes were ever left in the file.
const APPLICATION_ID_AT: u64 = 68;

pub(super) fn check_that_each_is_survived() {
    let rewards = tempfile::tempdir().expect("a folder");
    let at = |name: &str| rewards.path().join(name).display().to_string();
    model::write_reward(Path::new(&at("a.gguf")), 1, 0.0);
    model::write_reward(Path::new(&at("b.gguf")), 1, 2.0);
    let judge = [format!("reward.model={}", at("a.gguf")), format!("reward.folder={}", rewards.path().display())];
    let judge = judge.each_ref().map(String::as_str);
    let keep = ["ppo.log.keep_days=1"];

    let check = |point, sets: &[&str]| check(point, sets, |_| (), |_| ());
    check("schema.commit=kill@1", &[]);
    check("schema.commit=kill@5", &[]);
    check("open.commit=kill", &[]);
    check("engine.start=kill", &[]);
    check("engine.started=kill", &[]);
    check("reward.load=kill", &judge);
    let swap = |address| drop(post(address, "/v1/rewards/model", &json!({"path": "b.gguf"})));
    self::check("reward.load=kill@2", &judge, |_| (), swap);
    self::check("reward.seated=kill", &judge, |_| (), swap);
    for point in ["retention.commit=kill@1", "retention.commit=kill@2"] {
        self::check(point, &keep, |data| Ledger::new(data).add_old_exchanges(), |_| ());
    }
    let forget = |address| drop(post(address, "/v1/rollouts/forget", &json!({"user": "ann"})));
    self::check("log.checkpoint=kill", &[], |_| (), forget);
    self::check("log.vacuum=kill", &[], look_old, forget);
    for point in ["file.rename=kill", "folder.sync=kill@1", "folder.sync=kill@2"] {
        self::check(point, &[], put_stranger, |_| ());
    }
}

/// A daemon that is told to die there does, and the one after it serves.
fn check(point: &str, sets: &[&str], prepare: impl Fn(&Path), ask: impl Fn(SocketAddr)) {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, sets) = (folder.path(), [&["ppo.enabled=false"], sets].concat());
    prepare(data);
    let status = match Process::try_serve(data, &sets, point) {
        Err(status) => status,
        Ok(mut daemon) => {
            ask(daemon.address);
            eventually(point, || daemon.has_ended());
            daemon.wait()
        }
    };
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{point}: {status}");
    let mut ledger = Ledger::new(data);
    ledger.check_folder();
    let daemon = Process::try_serve(data, &sets, "").unwrap_or_else(|status| panic!("after {point}: {status}"));
    assert_eq!(answers(&daemon, "").as_deref(), Some("policy@0"), "{point}");
    drop(daemon);
    ledger.check_folder();
    if point.starts_with("file") || point.starts_with("folder") {
        assert!(data.join("versions/unknown/policy-78.gguf").exists(), "{point}: what is not ours is kept");
        assert!(!data.join("versions/policy-78.gguf").exists(), "{point}");
    }
}

/// A folder whose database says that deleted bytes may still be in it.
fn look_old(data: &Path) {
    publish_versions(data, 0);
    let database = fs::File::options().write(true).open(data.join("rollouts.sqlite")).expect("a database");
    database.write_all_at(&[0; 4], APPLICATION_ID_AT).expect("written");
}

/// A folder with weights that its database does not know.
fn put_stranger(data: &Path) {
    publish_versions(data, 0);
    model::write(&data.join("versions/policy-78.gguf"), 78);
}
