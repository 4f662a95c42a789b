//! A daemon in this process, on a free port, with a data directory of its own.

use std::{io::Write, net::SocketAddr, path::Path};

use config::{Config, Sources};
use daemon::app::{AppError, Running};
use serde_json::Value;

use super::{
    client::{self, Reply, Stream},
    model,
};

/// Collects settings; [`Builder::start`] starts.
pub(crate) struct Builder {
    sets: Vec<String>,
    model: String,
    key_files: Vec<tempfile::NamedTempFile>,
}

/// A running daemon; dropped, it drains.
pub(crate) struct TestDaemon {
    running: Option<Running>,
    address: SocketAddr,
    /// Absent when the test brought its own.
    _folder: Option<tempfile::TempDir>,
    _key_files: Vec<tempfile::NamedTempFile>,
}

impl TestDaemon {
    /// Serving without learning, unless [`Builder::set`] says otherwise.
    pub(crate) fn builder() -> Builder {
        Builder {
            sets: vec!["ppo.enabled=false".into()],
            model: model::file().display().to_string(),
            key_files: Vec::new(),
        }
    }

    pub(crate) fn start() -> TestDaemon {
        TestDaemon::builder().start()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        client::raw(self.address, &client::request("GET", path, &[], b""))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body)
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        client::raw(self.address, &client::request(method, path, headers, body))
    }

    pub(crate) fn stream(&self, path: &str, body: &Value) -> Stream {
        Stream::open(self.address, path, body)
    }

    /// One number of `/metrics`; 0 when it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Asks until the answer is yes; the learner, in the idle class, may need long on a busy machine, and this makes it no busier.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut holds: impl FnMut(&TestDaemon) -> bool) {
        let start = std::time::Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < std::time::Duration::from_secs(300), "waited in vain: {what}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Drains and waits for the end.
    pub(crate) fn stop(mut self) {
        self.running.take().expect("stopped once").stop().expect("a clean end");
    }
}

impl Builder {
    pub(crate) fn set(mut self, assignment: impl Into<String>) -> Builder {
        self.sets.push(assignment.into());
        self
    }

    /// With a file of these lines for `daemon.api_keys_file` or `daemon.admin_keys_file`.
    pub(crate) fn keys(mut self, knob: &str, lines: &str) -> Builder {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(lines.as_bytes()).expect("written");
        self.sets.push(format!("{knob}={}", file.path().display()));
        self.key_files.push(file);
        self
    }

    pub(crate) fn start(self) -> TestDaemon {
        let folder = tempfile::tempdir().expect("a folder");
        let mut daemon = self.try_start(folder.path()).expect("the daemon starts");
        daemon._folder = Some(folder);
        daemon
    }

    /// In a data directory that outlives the daemon.
    pub(crate) fn start_in(self, data_dir: &Path) -> TestDaemon {
        self.try_start(data_dir).expect("the daemon starts")
    }

    pub(crate) fn try_start(self, data_dir: &Path) -> Result<TestDaemon, AppError> {
        let mut sets = vec![
            "daemon.listen=127.0.0.1:0".to_owned(),
            format!("daemon.data_dir={}", data_dir.display()),
            format!("policy.model={}", self.model),
            "policy.threads=1".to_owned(),
        ];
        sets.extend(self.sets);
        let config = Config::load(Sources { file: None, env: Vec::new(), sets }).expect("valid settings");
        let running = Running::start(config)?;
        let address = running.address();
        Ok(TestDaemon { address, running: Some(running), _folder: None, _key_files: self.key_files })
    }
}
