//! Who has a data directory: this command, or a daemon that must then be asked to do it.
//!
//! Changes need the folder's lock, and a daemon that runs holds it. So a command takes the lock where nobody has it, and otherwise
//! sends the request that the daemon's admin route takes, to where the configuration says that it listens.

use std::{path::Path, time::Duration};

use config::Config;
use policy::PolicyVersion;
use ppo::{
    Registry, RolloutLog,
    registry::RegistryError,
    rollout_log::{LogError, LogSettings, Who, has_log},
};
use reward::Rules;

use crate::http::{Keys, wire::client};

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
    base: String,
    key: Option<String>,
}

impl Holder {
    /// Takes the folder, or finds the daemon.
    ///
    /// # Errors
    /// When there is no such folder, its log cannot be used, or the daemon's address is not known.
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
            Err(LogError::Locked { .. }) => Ok(Holder::Daemon(Daemon::at(config)?)),
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
    fn at(config: &Config) -> Result<Daemon, Failure> {
        let listen = &config.daemon.listen;
        if listen.ends_with(":0") {
            let hint = "a daemon has this folder, and the configuration does not say where it listens; use --listen";
            return Err(hint.into());
        }
        let key = Keys::read(&config.daemon.admin_keys_file, &config.keys.admin)?.any();
        Ok(Daemon { base: format!("http://{listen}"), key })
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
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let asked = request.send(body.as_bytes());
        let mut response = asked.map_err(|error| format!("the daemon at {} has this folder: {error}", self.base))?;
        let answer = response.body_mut().read_to_vec()?;
        match response.status().is_success() {
            true => Ok(answer),
            false => Err(format!("the daemon at {} refused: {}", self.base, client::refusal(&answer)).into()),
        }
    }
}
