//! A daemon to be treated badly, and how.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{
    client::{self, Reply, request},
    model,
    process::Process,
    versions::publish_versions,
};

/// Number, what it is, and what must hold. A number may have several cases.
pub(super) type Case = (u8, &'static str, fn(&Bench));

pub(super) const JSON: (&str, &str) = ("content-type", "application/json");
pub(super) const COMPLETIONS: &str = "/v1/completions";
pub(super) const CHAT: &str = "/v1/chat/completions";
/// The body as a whole is wrong: no field is named.
pub(super) const WHOLE: Option<&str> = None;
/// What nobody may read at the beginning of a line of the log.
pub(super) const FORGED: &str = "FORGED a line of the log";

/// A daemon of the real binary, with its log, and the key that it wants.
pub(super) struct Bench {
    pub(super) process: Process,
    pub(super) folder: tempfile::TempDir,
    key: Option<&'static str>,
    /// Sockets of a daemon to which nobody is connected.
    n_sockets: usize,
}

impl Bench {
    /// Serves without a judge.
    pub(super) fn plain() -> Bench {
        Bench::start(folder(), &[], None)
    }

    /// With a reward model whose bias this is, and clocks that run out within a test's patience.
    pub(super) fn judging(bias: f32) -> Bench {
        let folder = folder();
        let path = folder.path().join("reward.gguf");
        match bias.is_finite() {
            true => model::write_reward(&path, 1, bias),
            // One that says infinity of everything is refused at start; this one is found out by what it is asked.
            false => model::write_mute_reward(&path),
        }
        let reward = format!("reward.model={}", path.display());
        Bench::start(folder, &[&reward, "daemon.header_timeout_s=2", "daemon.body_timeout_s=2"], None)
    }

    /// With so many versions beside version 0, the last of them live.
    pub(super) fn with_versions(n: u64) -> Bench {
        let folder = folder();
        publish_versions(&folder.path().join("data"), n);
        Bench::start(folder, &[], None)
    }

    /// With a key for users and one for administrators.
    pub(super) fn with_keys() -> Bench {
        let folder = folder();
        let file = |name: &str, key: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, key).expect("written");
            path.display().to_string()
        };
        let api = format!("daemon.api_keys_file={}", file("api", "user-key\n"));
        let admin = format!("daemon.admin_keys_file={}", file("admin", "root-key\n"));
        Bench::start(folder, &[&api, &admin], Some("user-key"))
    }

    fn start(folder: tempfile::TempDir, sets: &[&str], key: Option<&'static str>) -> Bench {
        let sets = [&["ppo.enabled=false"], sets].concat();
        let (data, log) = (folder.path().join("data"), folder.path().join("honed.log"));
        let process = Process::serve_logged(&data, &sets, &log, "info,honed::access=debug");
        let n_sockets = process.n_sockets();
        Bench { process, folder, key, n_sockets }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs every case, each followed by a good request, and fails with everything that did not hold.
    #[track_caller]
    pub(super) fn walk(&self, cases: &[Case]) {
        let mut faults = Vec::new();
        for (number, name, holds) in cases {
            let run = catch_unwind(AssertUnwindSafe(|| holds(self)));
            let after = catch_unwind(AssertUnwindSafe(|| self.good()));
            if run.is_err() {
                faults.push(format!("{number}. {name}"));
            }
            if after.is_err() {
                faults.push(format!("{number}. {name}: the next good request failed"));
            }
        }
        assert!(faults.is_empty(), "{} faults (their panics are above):\n{}", faults.len(), faults.join("\n"));
    }

    pub(super) fn raw(&self, bytes: &[u8]) -> Reply {
        client::raw(self.process.address, bytes)
    }

    pub(super) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.raw(&request(method, path, headers, body))
    }

    pub(super) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub(super) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        let bearer = format!("Bearer {}", self.key.unwrap_or("none"));
        self.send("POST", path, &[JSON, ("authorization", &bearer)], body.as_ref())
    }

    /// A 400 that names this field, or none when the body as a whole is wrong.
    #[track_caller]
    pub(super) fn refuses<'a>(&self, path: &str, param: impl Into<Option<&'a str>>, body: impl AsRef<[u8]>) {
        let (body, param) = (body.as_ref(), param.into());
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let reply = self.post(path, body);
        assert_eq!(reply.status, 400, "{path} {shown}: {}", reply.text());
        let error = reply.error(400);
        assert_eq!(error["param"].as_str(), param, "{path} {shown}: {error}");
        assert_eq!(error["type"], "invalid_request_error", "{path} {shown}: {error}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 2000), "{path} {shown}: {error}");
    }

    /// As [`Bench::refuses`], of a completion with these fields beside a prompt.
    #[track_caller]
    pub(super) fn refuses_fields<'a>(&self, param: impl Into<Option<&'a str>>, fields: &str) {
        self.refuses(COMPLETIONS, param, format!(r#"{{"prompt":"a",{fields}}}"#));
    }

    /// A 200.
    #[track_caller]
    pub(super) fn accepts(&self, path: &str, body: impl AsRef<[u8]>) -> Value {
        self.post(path, body).ok()
    }

    /// A completion of two tokens with these fields is answered.
    #[track_caller]
    pub(super) fn accepts_fields(&self, fields: &str) -> Value {
        self.accepts(COMPLETIONS, format!(r#"{{"prompt":"a","max_tokens":2,{fields}}}"#))
    }

    /// The next good request.
    #[track_caller]
    pub(super) fn good(&self) {
        let answer = self.accepts(COMPLETIONS, r#"{"prompt":"the","max_tokens":2,"ignore_eos":true}"#);
        assert_eq!(answer["usage"]["completion_tokens"], 2, "{answer}");
    }

    /// One number of `/metrics`; 0 when it is not there yet.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    #[track_caller]
    pub(super) fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// Until nothing runs, nothing waits, and every connection is closed.
    #[track_caller]
    pub(super) fn settle(&self) {
        let busy = ["honed_num_requests_running", "honed_num_requests_waiting"];
        self.wait_for("all slots are free", || busy.iter().all(|name| self.metric(name) == 0.0));
        self.wait_for("all connections are closed", || self.process.n_sockets() == self.n_sockets);
    }

    /// Resident set of the daemon.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.process.memory_bytes()
    }

    /// Nothing panicked, and nobody wrote a line of their own.
    #[track_caller]
    pub(super) fn check_log(&self) {
        let log = std::fs::read_to_string(self.folder.path().join("honed.log")).expect("a log");
        let odd = log.lines().find(|line| line.contains("panicked") || line.starts_with(FORGED));
        assert!(odd.is_none(), "{odd:?}");
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}
