//! What is read again while the daemon runs: the key files, and the reward model's file.

use config::Config;
use ppo::rollout_log::{Act, Action, Who};

use super::AppError;
use crate::{
    http::{Context, KeyRing, Keys, replace_reward_model},
    reward_seat::Order,
};

/// Reads the files that the configuration names again. What cannot be read leaves things as they are, and says so in the log.
pub struct Reloader {
    config: Config,
    context: Context,
}

impl Reloader {
    pub(super) fn new(config: Config, context: Context) -> Reloader {
        Reloader { config, context }
    }

    /// Reads everything again.
    pub async fn reload(&self) {
        let act = Act::new(&Who::signal(), Action::ReloadKeys, None);
        let row = match keys(&self.config) {
            Ok(keys) => {
                self.context.set_keys(keys);
                tracing::info!("read the key files again");
                act.done()
            }
            Err(error) => {
                tracing::error!(%error, "the keys stay as they are");
                act.refused(error)
            }
        };
        let Ok(services) = self.context.services() else {
            tracing::warn!(?row, "SIGHUP came before the log was open; this line stands for its row of the audit log");
            return;
        };
        let again = tokio::task::spawn_blocking(move || {
            services.log.note(row);
            if services.seat.is_some() {
                // The seat itself logs what became of it.
                let _ = replace_reward_model(&services, &Order::default(), &Who::signal());
            }
        });
        if again.await.is_err() {
            tracing::error!("reading the reward model again panicked");
        }
    }
}

/// All keys of the files and of the environment.
///
/// # Errors
/// When a file cannot be read or holds no key.
pub(super) fn keys(config: &Config) -> Result<KeyRing, AppError> {
    let read = |path: &str, others| {
        Keys::read(path, others).map_err(|source| AppError::Keys { path: path.to_owned(), source })
    };
    Ok(KeyRing {
        api: read(&config.daemon.api_keys_file, &config.keys.api)?,
        admin: read(&config.daemon.admin_keys_file, &config.keys.admin)?,
    })
}
