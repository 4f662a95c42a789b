//! A daemon as a process of its own, as it is for clients elsewhere: what its memory is, is its alone, and no lock, allocator or
//! thread of the bench is in its way.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use config::KEY_VARIABLES;

use crate::cli::ConfigArgs;

/// `honed serve`; dropped, it is ended.
pub(super) struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    /// Starts this very program for a bench, with a data directory, and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started, or ends before it serves; why, it has said on the bench's standard error.
    pub(super) fn start(args: &ConfigArgs, data_dir: &Path) -> Result<Daemon, String> {
        let text = |error: std::io::Error| format!("the daemon does not start: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(text)?);
        // The keys of the environment are the real daemons'.
        for keys in KEY_VARIABLES {
            command.env_remove(keys);
        }
        command.env("RUST_LOG", "error").arg("serve").args(args.bench_arguments(data_dir));
        end_with_us(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(text)?;
        let mut daemon = Daemon { child, url: String::new() };
        let mut line = String::new();
        let said = daemon.child.stdout.take().ok_or("its output is not ours")?;
        BufReader::new(said).read_line(&mut line).map_err(text)?;
        daemon.url = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        if daemon.url.is_empty() { Err("the daemon ended before it served".to_owned()) } else { Ok(daemon) }
    }

    /// `http://ADDR`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Its resident memory, MiB; 0 where the system does not say.
    pub(super) fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    }

    /// Has it finish what it runs, and waits for its end.
    ///
    /// # Errors
    /// When it did not end well.
    pub(super) fn stop(mut self) -> Result<(), String> {
        let pid = libc::pid_t::try_from(self.child.id()).map_err(|error| error.to_string())?;
        // SAFETY: kill has no memory effects here; the child is ours and not yet reaped, so its number is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}")) }
    }
}

/// Has the system end the daemon where the bench is killed: nobody would know of it.
fn end_with_us(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: one call of the system between fork and exec, which allocates nothing.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(command, || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
