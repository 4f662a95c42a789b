//! The form of what learns: whole weights, or adapters of some rank and alpha.
//!
//! `ppo.lora_rank` and `ppo.lora_alpha` choose it where learning begins, at version 0. The file of every later version says what
//! it is, and whoever goes on from it keeps that: the same factors under another alpha are another policy, and moments of one
//! form say nothing of another. What an update's record says is the form that it had, not the one that was asked for.

use std::path::Path;

use candle_core::Device;
use policy::{
    PolicyVersion,
    checkpoint::{Checkpoint, metadata_of_file, shape_of_file},
    model_error::ModelError,
    transformer::{Adapter, LoraShape, is_adapter},
};

/// Rank and alpha of the adapters; `None`: whole weights.
pub(crate) type Form = Option<LoraShape>;

/// What the knobs ask for.
pub(crate) fn asked(config: &config::Ppo) -> Form {
    let lora = LoraShape { rank: config.lora_rank, alpha: config.lora_alpha as f32 };
    Some(lora).filter(|lora| lora.rank > 0)
}

/// The form of a version in `file`. At version 0, which lies in `sft`, it is what the knobs ask for.
///
/// # Errors
/// When the file cannot be read, or is an adapter that cannot be trained.
pub(crate) fn of_version(
    version: PolicyVersion,
    file: &Path,
    sft: &Path,
    config: &config::Ppo,
) -> Result<Form, ModelError> {
    if version == PolicyVersion::SFT {
        return Ok(asked(config));
    }
    if !is_adapter(&metadata_of_file(file)?) {
        return Ok(None);
    }
    let adapter = Adapter::from_checkpoint(&Checkpoint::read(file)?, &shape_of_file(sft)?, &Device::Cpu)?;
    Ok(Some(adapter.shape()))
}

/// The configuration with the knobs that ask for this form; as it is where they ask for it already.
///
/// Rates go with the form: one that is the default of the form that was asked for becomes the default of this one. Whole weights at
/// the rates of adapters would run away.
pub(crate) fn configured(config: &config::Ppo, form: Form) -> config::Ppo {
    let mut config = config.clone();
    if asked(&config).is_some() != form.is_some() {
        let [from, to] = [asked(&config).is_some(), form.is_some()].map(config::Ppo::defaults);
        for (rate, from, to) in [
            (&mut config.policy_learning_rate, from.policy_learning_rate, to.policy_learning_rate),
            (&mut config.value_learning_rate, from.value_learning_rate, to.value_learning_rate),
            (&mut config.value_head_learning_rate, from.value_head_learning_rate, to.value_head_learning_rate),
        ] {
            if *rate == from {
                *rate = to;
            }
        }
    }
    config.lora_rank = form.map_or(0, |lora| lora.rank);
    if let Some(lora) = form.filter(|lora| lora.alpha != config.lora_alpha as f32) {
        // By way of its shortest decimals: 0.1 in f32 is 0.1 to whoever reads the record.
        let alpha: f64 = lora.alpha.to_string().parse().expect("decimals of an f32 are those of an f64");
        // An adapter from outside may have an alpha that is no knob's, and its record must load again all the same: who computes
        // such an update again takes the adapter's own.
        config.lora_alpha = alpha.clamp(*config::LORA_ALPHA.start(), *config::LORA_ALPHA.end());
    }
    config
}

/// Says that the knobs ask for another form than the live version's, if they do.
pub(crate) fn tell(version: PolicyVersion, kept: Form, config: &config::Ppo) {
    let asked = asked(config);
    if asked != kept {
        let used = configured(config, kept);
        tracing::warn!(
            %version,
            kept = shown(kept),
            configured = shown(asked),
            policy_learning_rate = used.policy_learning_rate,
            value_learning_rate = used.value_learning_rate,
            value_head_learning_rate = used.value_head_learning_rate,
            "ppo.lora_rank and ppo.lora_alpha are those that the live version was trained with: learning keeps them, at these \
             rates; to begin with the configured ones, activate version 0 or name another data folder"
        );
    }
}

/// In words.
pub(crate) fn shown(form: Form) -> String {
    match form {
        None => "whole weights".to_string(),
        Some(LoraShape { rank, alpha }) => format!("adapters of rank {rank} and alpha {alpha}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(lora_rank: usize, lora_alpha: f64) -> config::Ppo {
        config::Ppo { lora_rank, lora_alpha, ..config::Config::default().ppo }
    }

    #[test]
    fn knobs_that_ask_for_the_form_stay_and_others_say_what_is() {
        let lora = |rank, alpha| Some(LoraShape { rank, alpha });
        let kept = |config: config::Ppo, form| {
            let config = configured(&config, form);
            (config.lora_rank, config.lora_alpha)
        };
        let third = 1.0 / 3.0;
        assert_eq!(kept(knobs(4, third), lora(4, third as f32)), (4, third));
        assert_eq!(kept(knobs(0, 32.0), None), (0, 32.0));
        assert_eq!(kept(knobs(8, 128.0), lora(4, 0.1)), (4, 0.1));
        assert_eq!(kept(knobs(4, 16.0), None), (0, 16.0));
        assert_eq!(kept(knobs(0, 32.0), lora(2, 1e6)), (2, 4096.0), "a record must load again");
    }

    /// Goal: whole weights never learn at the default rates of adapters, nor adapters at theirs, and a rate that somebody named stays.
    #[test]
    fn default_rates_go_with_the_form() {
        let lora = Some(LoraShape { rank: 4, alpha: 32.0 });
        let rates = |config: &config::Ppo| {
            (config.policy_learning_rate, config.value_learning_rate, config.value_head_learning_rate)
        };
        let [whole, adapters] = [false, true].map(config::Ppo::defaults);
        assert!(adapters.lora_rank > 0 && rates(&adapters) == (2e-5, 5e-5, 1e-4), "{adapters:?}");
        assert_eq!(rates(&configured(&adapters, None)), rates(&whole));
        assert_eq!(rates(&configured(&whole, lora)), rates(&adapters));
        assert_eq!(rates(&configured(&adapters, lora)), rates(&adapters));
        let named = config::Ppo { policy_learning_rate: 1e-4, ..adapters };
        assert_eq!(rates(&configured(&named, None)), (1e-4, whole.value_learning_rate, 0.0));
        let named = config::Ppo { value_head_learning_rate: 3e-4, ..whole };
        assert_eq!(rates(&configured(&named, lora)), (2e-5, 5e-5, 3e-4));
    }

    #[test]
    fn what_is_recorded_asks_for_the_same_again() {
        let form = Some(LoraShape { rank: 3, alpha: 0.3 });
        let recorded = configured(&knobs(0, 32.0), form).assignments();
        assert_eq!(asked(&config::Ppo::from_assignments(&recorded).unwrap()), form);
    }
}
