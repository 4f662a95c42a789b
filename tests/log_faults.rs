//! The real daemon on a disk that refuses: full, read-only, somebody else's.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Output},
};

use ppo::rollout_log::{DropReason, LogReader, PageQuery};
use serde_json::{Value, json};

use crate::harness::{
    client::{self, Reply},
    model,
    process::{self, Process},
};

/// Bytes of the largest file that the daemon may write while its disk is "full": the copy of the model, and some of the log.
const LIMIT: u64 = 1 << 20;

fn post(daemon: &Process, path: &str, body: &Value) -> Reply {
    let json = [("content-type", "application/json")];
    client::raw(daemon.address, &client::request("POST", path, &json, body.to_string().as_bytes()))
}

fn metric(daemon: &Process, name: &str) -> f64 {
    let text = client::raw(daemon.address, &client::request("GET", "/metrics", &[], b"")).text();
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Goal: a full disk costs nothing but patience: serving goes on, feedback is refused and not promised, and what was answered
/// meanwhile is logged once there is room. Method: a limit on the size of files, which to a writer is a full disk that can be
/// had without privilege; it is lifted while the daemon runs.
#[test]
fn a_full_disk_is_waited_out_and_serving_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(fs::metadata(model::file()).expect("the model").len() < LIMIT);
    let mut command = Command::new(process::binary());
    // SAFETY: one system call between fork and exec, which touches no memory of the parent.
    unsafe { command.pre_exec(|| limit_files(0, LIMIT)) };
    let sets = ["ppo.enabled=false", "ppo.log.commit_ms=5", "reward.source=feedback", "reward.feedback_fallback=drop"];
    let mut daemon = Process::start(command.env("RUST_LOG", "off"), folder.path(), &sets).expect("it starts");
    let ask = || {
        let body = json!({"prompt": "the ocean is vast ".repeat(12), "max_tokens": 60, "ignore_eos": true, "n": 4});
        post(&daemon, "/v1/completions", &body).ok()["id"].as_str().expect("an id").to_owned()
    };
    let mut ids = Vec::new();
    while metric(&daemon, "honed_rollout_log_write_errors_total") == 0.0 {
        ids.push(ask());
        assert!(ids.len() < 2000, "the disk never filled");
    }
    ids.extend((0..5).map(|_| ask()));
    let last = ids.last().expect("one").clone();
    let words = json!({"id": last, "label": "up"});
    assert_eq!(post(&daemon, "/v1/feedback", &words).error(503)["code"], "unavailable");
    for (path, body) in
        [("/v1/policies/0/activate", json!({})), ("/v1/rollouts/forget", json!({"user": "somebody else"}))]
    {
        let error = post(&daemon, path, &body).error(503);
        assert!(error["message"].as_str().expect("a message").contains("cannot be written now"), "{path}: {error}");
    }
    assert_eq!(client::raw(daemon.address, &client::request("GET", "/readyz", &[], b"")).status, 200);
    limit_files(daemon.pid(), libc::RLIM_INFINITY).expect("the limit is lifted");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while post(&daemon, "/v1/feedback", &words).status != 200 {
        assert!(std::time::Instant::now() < until, "the log did not come back");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    daemon.signal(libc::SIGTERM);
    assert!(daemon.wait().success());
    let log = LogReader::open(folder.path()).expect("a log");
    let rows = log.page(&PageQuery { limit: 1_000_000, ..PageQuery::default() }).expect("rows");
    let logged: Vec<&str> =
        rows.iter().filter(|row| row.rollout.id.index == 0).map(|row| &*row.rollout.id.request).collect();
    assert_eq!(logged, ids, "everything that was answered, in its order");
    assert_eq!(rows.len(), 4 * ids.len());
    assert!(!log.stats().expect("counts").dropped.contains_key(&DropReason::WriteFailed));
}

/// Of this process (0) or another: the soft limit, which may be raised again.
fn limit_files(pid: libc::pid_t, bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: both pointers are valid or null for the whole call.
    match unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn serve(data_dir: &Path) -> Command {
    let mut command = Command::new(process::binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--set", "ppo.enabled=false", "--model"]).arg(model::file());
    command.arg("--data-dir").arg(data_dir);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_second_daemon_on_the_same_folder_is_turned_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = Process::serve(folder.path(), &["ppo.enabled=false"]);
    let output = serve(folder.path()).output().expect("it ends by itself");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another honed") && said.contains(&format!("pid {}", daemon.pid())), "{said}");
    assert!(said.contains("daemon.data_dir"), "{said}");
    post(&daemon, "/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).ok();
}

/// Goal: a folder that cannot be written to is named, with the reason, before anything is served. Method: as nobody, where the
/// test runs as root, whom no permission stops.
#[test]
fn a_read_only_folder_is_named() {
    const NOBODY: u32 = 65_534;
    // SAFETY: it only asks.
    let is_root = unsafe { libc::geteuid() } == 0;
    let folder = tempfile::tempdir().expect("a folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("model.gguf"));
    fs::create_dir(&data).expect("a folder");
    fs::copy(model::file(), &file).expect("room");
    if is_root {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("it is ours");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("it is ours");
    }
    fs::set_permissions(&file, Permissions::from_mode(0o444)).expect("it is ours");
    fs::set_permissions(&data, Permissions::from_mode(0o555)).expect("it is ours");
    let mut command = Command::new(process::binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--set", "ppo.enabled=false", "--model"]).arg(&file);
    command.arg("--data-dir").arg(&data);
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = match command.output() {
        Err(error) if is_root && error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: nobody may not run the binary where it lies");
            return;
        }
        output => output.expect("it ends by itself"),
    };
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&data.display().to_string()) && said.contains("ermission denied"), "{said}");
    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("it is ours");
}
