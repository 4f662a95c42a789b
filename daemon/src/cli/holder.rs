//! Who has a data directory: this command, or a daemon that must then be asked to do it.
//!
//! Changes need the folder's lock, and a daemon that runs holds it. So a command takes the lock where nobody has it, and otherwise
//! sends the request that the daemon's admin route takes, to where the folder's lock file says that it listens. The configuration
//! is not asked: where it names the daemon of another folder, that one would carry out what was meant for this.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use config::Config;
use policy::PolicyVersion;
use ppo::{
    Registry, RolloutLog,
    registry::RegistryError,
    rollout_log::{LockHolder, LogError, LogSettings, Who, has_log},
};
use reward::Rules;
use ureq::http::StatusCode;

use crate::{
    app::AppError,
    http::{Keys, wire::client},
};

/// How long the daemon may take: an activation loads weights.
const PATIENCE: Duration = Duration::from_secs(600);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Who has it.
pub(super) enum Holder {
    /// This command, until it is dropped.
    Us(RolloutLog),
    /// A daemon.
    Daemon(Daemon),
}

/// A daemon's admin routes.
pub(super) struct Daemon {
    /// What is told of it when it does not answer.
    holder: LockHolder,
    base: String,
    key: Option<String>,
}

impl Holder {
    /// Takes the folder, or finds the daemon.
    ///
    /// # Errors
    /// When there is no such folder, its log cannot be used, or whoever has it does not listen.
    pub(super) fn find(config: &Config) -> Result<Holder, Failure> {
        let data_dir = Path::new(&config.daemon.data_dir);
        if !data_dir.is_dir() {
            return Err(format!("there is no data directory {data_dir:?}; name it with --data-dir").into());
        }
        if !has_log(data_dir) {
            // Made anew it would be empty, and whatever is asked of it would seem done.
            return Err(LogError::Absent { dir: data_dir.to_path_buf() }.into());
        }
        let settings = LogSettings {
            commit_ms: config.ppo.log.commit_ms,
            queue: config.ppo.log.queue,
            rescore_on_feedback: Rules::new(&config.reward).listens(),
        };
        match RolloutLog::open(data_dir, &settings) {
            Ok(log) => Ok(Holder::Us(log)),
            Err(LogError::Locked { holder, .. }) => Ok(Holder::Daemon(Daemon::of(holder, config)?)),
            Err(error) => Err(error.into()),
        }
    }
}

/// The versions of a folder that is ours, with the retention that is configured; what is changed is the command line's doing.
///
/// # Errors
/// When the folder has no version 0, or it cannot be used.
pub(super) fn registry(log: &RolloutLog, config: &Config) -> Result<Registry, Failure> {
    let registry = Registry::reopen(log.clone(), config.ppo.keep_versions).map_err(|error| match error {
        RegistryError::Damaged { version: PolicyVersion::SFT, .. } => {
            format!("{error}; `honed serve` with the model that this folder was begun with restores it").into()
        }
        error => Failure::from(error),
    })?;
    Ok(registry.keeping_bytes(crate::app::bytes_kept(&config.ppo)).on_behalf_of(&Who::cli()))
}

impl Daemon {
    fn of(holder: LockHolder, config: &Config) -> Result<Daemon, Failure> {
        let daemon = &config.daemon;
        let Some(address) = holder.address else {
            return Err(format!(
                "another process{holder} has {:?} and is not listening yet: a daemon that still starts (or is too old to \
                 leave its address there), or another command; ask again when it has started or ended",
                daemon.data_dir
            )
            .into());
        };
        let path = &daemon.admin_keys_file;
        let keys = Keys::read(path, &config.keys.admin);
        let keys = keys.map_err(|source| AppError::Keys { path: path.clone(), source })?;
        Ok(Daemon { holder, base: format!("http://{}", reachable(address)), key: keys.any() })
    }

    /// Posts to one of its admin routes and returns the body of its answer.
    ///
    /// # Errors
    /// What it answers when it refuses, or that it cannot be reached.
    pub(super) fn post(&self, path: &str, body: &str) -> Result<Vec<u8>, Failure> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .build()
            .new_agent();
        let mut request = agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        // It may have no name but those of `daemon.allowed_hosts`, its own address not among them; this one it always has.
        request = request.header("host", "localhost");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let Daemon { holder, base, .. } = self;
        let asked = request.send(body.as_bytes());
        let silent = |error| format!("the daemon{holder} that has this folder gave no answer at {base}: {error}");
        let mut response = asked.map_err(silent)?;
        let answer = response.body_mut().read_to_vec()?;
        match response.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(format!("{}; {}", self.refusal(&answer), self.key_told()).into())
            }
            _ => Err(self.refusal(&answer).into()),
        }
    }

    fn refusal(&self, answer: &[u8]) -> String {
        format!("the daemon at {} refused: {}", self.base, client::refusal(answer))
    }

    /// Where the key is from that it does not know; its own sentence is about a header, which nobody types here.
    fn key_told(&self) -> &'static str {
        match self.key {
            Some(_) => {
                "this command sent the first admin key of HONED_ADMIN_KEYS or, where that is not set, of \
                 daemon.admin_keys_file, and the daemon has no such key"
            }
            None => "this command found no admin key in HONED_ADMIN_KEYS or daemon.admin_keys_file",
        }
    }
}

/// Where a program on the same machine finds what listens at this address: "every address" is one to listen on, none to call.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    });
    address
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn every_address_is_called_at_loopback_of_its_family() {
        let cases = [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[::ffff:0.0.0.0]:80", "127.0.0.1:80"),
            ("[::ffff:10.0.0.7]:80", "10.0.0.7:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ];
        for (bound, called) in cases {
            assert_eq!(reachable(bound.parse().expect("an address")).to_string(), called, "{bound}");
        }
    }

    /// The head of one request, which gets an empty object as its answer.
    fn head_of_one(listener: &TcpListener) -> Vec<String> {
        let (socket, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(socket);
        let lines = reader.by_ref().lines().map(|line| line.expect("UTF-8").to_ascii_lowercase());
        let head = lines.take_while(|line| !line.is_empty()).collect();
        reader.read_exact(&mut [0; 2]).expect("a body");
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").expect("written");
        head
    }

    /// Goal: a daemon that listens on an address which is none of its names hears its own commands. Method: what is sent to one.
    #[test]
    fn a_daemon_is_asked_under_a_name_that_it_always_has() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let holder = LockHolder { pid: None, address: Some(address) };
        let daemon = Daemon { holder, base: format!("http://{address}"), key: Some("root".to_owned()) };
        let server = std::thread::spawn(move || head_of_one(&listener));
        assert_eq!(daemon.post("/v1/x", "{}").expect("an answer"), b"{}");
        let head = server.join().expect("no panic");
        let has = |line: &str| head.iter().filter(|sent| *sent == line).count() == 1;
        assert!(has("host: localhost") && has("authorization: bearer root"), "{head:?}");
        assert_eq!(head.iter().filter(|sent| sent.starts_with("host:")).count(), 1, "{head:?}");
    }
}
