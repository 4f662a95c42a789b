//! The real binary as a process of its own: for signals, and for a death without warning.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::model;

/// A spawned `honed serve`; dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// The binary that `cargo test --workspace` built beside this one.
pub(crate) fn binary() -> PathBuf {
    let tests = std::env::current_exe().expect("this program has a path");
    let honed = tests.ancestors().nth(2).expect("target/PROFILE/deps/tests-…").join("honed");
    assert!(honed.exists(), "{} is missing: cargo build --workspace --all-targets", honed.display());
    honed
}

impl Process {
    /// Returns when it says that it listens.
    pub(crate) fn serve(data_dir: &Path, sets: &[&str]) -> Process {
        Process::spawn(Command::new(binary()), data_dir, sets)
    }

    /// As [`Process::serve`], with its log in a file; `filter` is what `RUST_LOG` says.
    pub(crate) fn serve_logged(data_dir: &Path, sets: &[&str], log: &Path, filter: &str) -> Process {
        let mut command = Command::new(binary());
        command.env("RUST_LOG", filter).stderr(std::fs::File::create(log).expect("a file"));
        Process::spawn(command, data_dir, sets)
    }

    /// As [`Process::serve`], with failpoints; how it ended when that was before it served.
    pub(crate) fn try_serve(data_dir: &Path, sets: &[&str], failpoints: &str) -> Result<Process, ExitStatus> {
        let mut command = Command::new(binary());
        Process::start(command.env("HONED__DAEMON__FAILPOINTS", failpoints).env("RUST_LOG", "off"), data_dir, sets)
    }

    /// As [`Process::serve`], by a command that has an environment of its own.
    pub(crate) fn spawn(mut command: Command, data_dir: &Path, sets: &[&str]) -> Process {
        Process::start(&mut command, data_dir, sets)
            .unwrap_or_else(|status| panic!("it ended before it served: {status}"))
    }

    /// As [`Process::serve`], of a command that was prepared otherwise; how it ended when that was before it served.
    pub(crate) fn start(command: &mut Command, data_dir: &Path, sets: &[&str]) -> Result<Process, ExitStatus> {
        command.arg("serve").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        command.arg("--model").arg(model::file()).args(["--set", "policy.threads=1"]);
        for set in sets {
            command.args(["--set", set]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        match address {
            Some(address) => Ok(Process { address, child }),
            None if line.is_empty() => Err(child.wait().expect("the process ends")),
            None => panic!("said {line:?}"),
        }
    }

    pub(crate) fn pid(&self) -> libc::pid_t {
        libc::pid_t::try_from(self.child.id()).expect("a process id")
    }

    /// Whether it has ended already.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects here; the child is ours and not yet reaped, so its number is its own.
        let sent = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(sent, 0, "the signal was sent");
    }

    /// Its resident set, KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.memory_bytes() / 1024
    }

    /// Its resident set, as the kernel counts it.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The most that its resident set ever was, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc().join("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sockets that it holds, the listening one among them.
    pub(crate) fn n_sockets(&self) -> usize {
        let files = std::fs::read_dir(self.proc().join("fd")).expect("it runs").flatten();
        let is_socket = |path: PathBuf| path.to_string_lossy().starts_with("socket:");
        // What was closed since the folder was read is no socket any more.
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(is_socket)).count()
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.child.id()))
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the process ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
