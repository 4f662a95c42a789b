//! What is read again while the daemon runs: the key files, and the reward model's file.

use config::Config;

use super::AppError;
use crate::{
    http::{Context, KeyRing, Keys, replace_reward_model},
    reward_seat::{Order, SeatError},
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
        match keys(&self.config) {
            Ok(keys) => {
                self.context.set_keys(keys);
                tracing::info!("read the key files again");
            }
            Err(error) => tracing::error!(%error, "the keys stay as they are"),
        }
        let Ok(services) = self.context.services() else {
            return;
        };
        // The seat itself logs what became of it.
        let replaced = tokio::task::spawn_blocking(move || replace_reward_model(&services, &Order::default())).await;
        if let Ok(Err(SeatError::NoSeat)) = replaced {
            tracing::debug!("no reward model to be read again");
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
