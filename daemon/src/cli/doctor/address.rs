//! Whether the daemon could listen, or does so already.

use std::{
    io::ErrorKind,
    net::{TcpListener, ToSocketAddrs},
    path::Path,
};

use ppo::rollout_log::LockHolder;

/// An address in use is as it should be where the daemon of the folder has it: who asks a doctor has one that runs, often.
pub(super) fn look(daemon: &config::Daemon) -> Result<String, String> {
    match TcpListener::bind(&daemon.listen) {
        Ok(_) => Ok("free".to_owned()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => match ours(daemon) {
            Some(holder) => Ok(format!("this folder's daemon{holder} listens there")),
            None => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    }
}

/// The daemon of the folder, where it listens at the address of the configuration.
fn ours(daemon: &config::Daemon) -> Option<LockHolder> {
    let holder = LockHolder::of(Path::new(&daemon.data_dir))?;
    let bound = holder.address?;
    let mut asked = daemon.listen.to_socket_addrs().ok()?;
    // Whoever listens at every address has each.
    let is_it = asked.any(|asked| {
        let is_any = bound.ip().to_canonical().is_unspecified() || asked.ip().to_canonical().is_unspecified();
        asked.port() == bound.port() && (is_any || asked.ip().to_canonical() == bound.ip().to_canonical())
    });
    is_it.then_some(holder)
}

#[cfg(test)]
mod tests {
    use ppo::{RolloutLog, rollout_log::LogSettings};

    use super::*;

    /// Goal: an address in use is a fault unless this folder's daemon has it. Method: a listener, and a log that names it as its
    /// daemon's address, another one's, and nobody's any more.
    #[test]
    fn the_folders_own_daemon_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let data_dir = folder.path().to_str().expect("UTF-8").to_owned();
        let daemon = config::Daemon { listen: address.to_string(), data_dir, ..config::Config::default().daemon };
        assert!(look(&daemon).is_err(), "nobody is known to be there");
        let open = || {
            let settings = LogSettings { commit_ms: 1, queue: 16, rescore_on_feedback: false };
            RolloutLog::open(folder.path(), &settings).expect("a log")
        };
        let log = open();
        assert!(look(&daemon).is_err(), "whoever has the folder does not listen");
        log.announce(address).expect("written");
        let said = look(&daemon).expect("it is the folder's own");
        assert!(said.contains(&format!("(pid {}, listening on {address})", std::process::id())), "{said}");
        log.close();
        drop(log);
        assert!(look(&daemon).is_err(), "it is gone, and somebody else listens");
        let log = open();
        log.announce("127.0.0.1:1".parse().expect("an address")).expect("written");
        assert!(look(&daemon).is_err(), "it listens elsewhere");
        let free = config::Daemon { listen: "127.0.0.1:0".to_owned(), ..daemon };
        assert_eq!(look(&free).as_deref(), Ok("free"));
    }
}
