//! Rules that hold between keys.

use crate::{Config, ConfigError};

/// Below it `ppo.watch_latency_factor` would take noise for a slow version.
const LATENCY_FACTOR_MIN: f64 = 1.5;

impl Config {
    /// Whether the keys agree with each other; single values were judged when they arrived.
    pub(crate) fn check_agreement(&self) -> Result<(), ConfigError> {
        let ppo = &self.ppo;
        if !ppo.rollouts_per_update.is_multiple_of(ppo.minibatch) {
            let expected = format!("a divisor of {}", self.cite("ppo.rollouts_per_update", ppo.rollouts_per_update));
            return Err(self.disagreement("ppo.minibatch", expected, ppo.minibatch));
        }
        self.check_ranges()?;
        if ppo.activation_checkpointing && ppo.device != "cpu" {
            let expected =
                format!("false, because of {}: only the processor's passes do", self.cite("ppo.device", &ppo.device));
            return Err(self.disagreement("ppo.activation_checkpointing", expected, true));
        }
        self.check_latency_factor()?;
        if ppo.dual_clip > 0.0 && ppo.dual_clip <= 1.0 + ppo.clip_high {
            let expected = format!("0, or more than 1 + {}", self.cite("ppo.clip_high", ppo.clip_high));
            return Err(self.disagreement("ppo.dual_clip", expected, ppo.dual_clip));
        }
        if ppo.ptx != "off" && ppo.ptx_file.is_empty() {
            let expected = format!("a file of text, because of {}", self.cite("ppo.ptx", &ppo.ptx));
            return Err(self.disagreement("ppo.ptx_file", expected, &ppo.ptx_file));
        }
        self.check_estimators()?;
        let daemon = &self.daemon;
        if daemon.import_watch != "off" && daemon.import_dir.is_empty() {
            let expected = format!("a folder, because of {}", self.cite("daemon.import_watch", &daemon.import_watch));
            return Err(self.disagreement("daemon.import_dir", expected, &daemon.import_dir));
        }
        self.check_reward_sources()
    }

    fn check_estimators(&self) -> Result<(), ConfigError> {
        let ppo = &self.ppo;
        if ppo.kl_in == "loss" && ppo.kl_estimator == "k1" {
            let expected = format!("\"k2\" or \"k3\", because of {}", self.cite("ppo.kl_in", &ppo.kl_in));
            return Err(self.disagreement("ppo.kl_estimator", expected, &ppo.kl_estimator));
        }
        let of_tokens = ["token_truncate", "token_mask", "off"];
        if ppo.proximal == "log_linear" && !of_tokens.contains(&ppo.importance.as_str()) {
            let proximal = self.cite("ppo.proximal", &ppo.proximal);
            let expected = format!("\"token_truncate\", \"token_mask\" or \"off\", because of {proximal}");
            return Err(self.disagreement("ppo.importance", expected, &ppo.importance));
        }
        let asks_value_model = ppo.advantage_estimator == "gae";
        for (key, word) in [("ppo.missing_eos", &ppo.missing_eos), ("ppo.client_limit", &ppo.client_limit)] {
            if word == "bootstrap" && !asks_value_model {
                let estimator = self.cite("ppo.advantage_estimator", &ppo.advantage_estimator);
                let expected = format!("another word, because of {estimator}, which has no value model to ask");
                return Err(self.disagreement(key, expected, word));
            }
        }
        Ok(())
    }

    fn check_latency_factor(&self) -> Result<(), ConfigError> {
        let factor = self.ppo.watch_latency_factor;
        if factor == 0.0 || factor >= LATENCY_FACTOR_MIN {
            return Ok(());
        }
        Err(self.disagreement("ppo.watch_latency_factor", format!("0, or at least {LATENCY_FACTOR_MIN}"), factor))
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        let ppo = &self.ppo;
        let ranges = [
            ("ppo.is_geo_low", ppo.is_geo_low, "ppo.is_geo_high", ppo.is_geo_high),
            ("ppo.is_mask_low", ppo.is_mask_low, "ppo.is_mask_high", ppo.is_mask_high),
        ];
        for (low_key, low, high_key, high) in ranges {
            if low > high {
                let expected = format!("at most {}", self.cite(high_key, high));
                return Err(self.disagreement(low_key, expected, low));
            }
        }
        Ok(())
    }

    fn check_reward_sources(&self) -> Result<(), ConfigError> {
        let reward = &self.reward;
        let mixes = reward.source == "mix";
        if mixes && reward.mix_model == 0.0 && reward.mix_remote == 0.0 && reward.mix_feedback == 0.0 {
            let expected = "a weight other than 0 in mix_model, mix_remote or mix_feedback";
            return Err(self.disagreement("reward.source", expected.to_owned(), &reward.source));
        }
        let asks_feedback = reward.source == "feedback" || (mixes && reward.mix_feedback != 0.0);
        let asker = if reward.source == "remote" {
            Some(self.cite("reward.source", &reward.source))
        } else if mixes && reward.mix_remote != 0.0 {
            Some(self.cite("reward.mix_remote", reward.mix_remote))
        } else if asks_feedback && reward.feedback_fallback == "remote" {
            Some(self.cite("reward.feedback_fallback", &reward.feedback_fallback))
        } else {
            None
        };
        match asker {
            Some(asker) if reward.remote_url.is_empty() => {
                let expected = format!("the URL of a reward server, because of {asker}");
                Err(self.disagreement("reward.remote_url", expected, &reward.remote_url))
            }
            _ => Ok(()),
        }
    }

    /// Another key as an error quotes it: `ppo.minibatch = 32 (from default)`.
    fn cite(&self, key: &str, value: impl std::fmt::Debug) -> String {
        format!("`{key}` = {value:?} (from {})", self.origins.of(key))
    }

    fn disagreement(&self, key: &str, expected: String, value: impl std::fmt::Debug) -> ConfigError {
        let origin = self.origins.of(key);
        ConfigError::Value { key: key.to_owned(), expected, value: format!("{value:?}"), origin }
    }
}
