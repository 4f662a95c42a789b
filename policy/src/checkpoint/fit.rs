//! Whether a file could be a version of the policy that version 0 began.
//!
//! Everything but the numbers must be version 0's: tokenizer, hyperparameters, names and shapes. What differs would be
//! computed by llama.cpp and by the trainer each in its own way, or not at all, and some of it ends the process (a norm's gain
//! that is not f32, a known key of another type).

use candle_core::quantized::gguf_file::Value;
use config::LORA_RANK_MAX;

use super::{
    Metadata,
    gguf::{Header, Malformed, Place},
};
use crate::transformer::{factors_of, is_adapter};

/// Keys that differ between versions and that nobody trips over.
const FREE: [&str; 4] = ["general.", "honed.", "quantize.", "imatrix."];

/// What kind of version a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All weights.
    Whole,
    /// Factors beside version 0's weights.
    Adapter {
        /// Of every factor.
        rank: u64,
        /// Every linear layer of every block has its two factors, as the trainer's adapters have.
        is_complete: bool,
    },
}

/// Compares a file's header with version 0's.
///
/// # Errors
/// With the first difference that matters.
pub fn check_fit(header: &Header, sft: &Header) -> Result<Form, Malformed> {
    if header.vocabulary_digest != sft.vocabulary_digest {
        return Err(Malformed("its tokenizer is not version 0's".to_owned()));
    }
    let form = if is_adapter(&header.metadata) { adapter(header, sft)? } else { whole(header, sft)? };
    check_keys(&header.metadata, &sft.metadata, form)?;
    Ok(form)
}

fn whole(header: &Header, sft: &Header) -> Result<Form, Malformed> {
    if let Some(stranger) = header.tensors.keys().find(|name| !sft.tensors.contains_key(*name)) {
        return Err(Malformed(format!("tensor {stranger}: version 0 has none of that name")));
    }
    for (name, expected) in &sft.tensors {
        let wrong = |what: String| Malformed(format!("tensor {name}: {what}"));
        let found = header.tensors.get(name).ok_or_else(|| wrong("it is missing".to_owned()))?;
        check_dims(name, &expected.dims, found)?;
        // llama.cpp adds and multiplies by vectors in the type that version 0 has them in, and in no other.
        let may_differ = expected.dims.len() > 1 && found.kind.is_weight && expected.kind.is_weight;
        if found.kind != expected.kind && !may_differ {
            return Err(wrong(format!("type {}, expected {}", found.kind.name, expected.kind.name)));
        }
    }
    Ok(Form::Whole)
}

fn adapter(header: &Header, sft: &Header) -> Result<Form, Malformed> {
    match header.metadata.get("adapter.type") {
        Some(Value::String(kind)) if kind == "lora" => {}
        other => return Err(Malformed(format!("key adapter.type: expected \"lora\", got {}", shown(other)))),
    }
    match header.metadata.get("adapter.lora.alpha") {
        Some(Value::F32(alpha)) if alpha.is_finite() && *alpha > 0.0 => {}
        other => {
            let expected = "a finite f32 above 0";
            return Err(Malformed(format!("key adapter.lora.alpha: expected {expected}, got {}", shown(other))));
        }
    }
    let is_layer = |name: &str, place: &Place| name.starts_with("blk.") && place.dims.len() == 2;
    let layers = sft.tensors.iter().filter(|(name, place)| is_layer(name, place));
    let (mut rank, mut n_factors, mut is_complete) = (None, 0, true);
    for (name, base) in layers {
        let names = factors_of(name);
        let [a, b] = names.each_ref().map(|name| header.tensors.get(name));
        let (Some(a), Some(b)) = (a, b) else {
            if a.is_some() || b.is_some() {
                return Err(Malformed(format!("tensor {name}: one of its two factors is missing")));
            }
            is_complete = false;
            continue;
        };
        let rank = *rank.get_or_insert(a.dims[0]);
        check_factor(&names[0], &[rank, base.dims[1]], a)?;
        check_factor(&names[1], &[base.dims[0], rank], b)?;
        n_factors += 2;
    }
    let rank = rank.filter(|rank| (1..=LORA_RANK_MAX.into()).contains(rank));
    let rank = rank.ok_or_else(|| Malformed(format!("an adapter needs factors of rank 1 to {LORA_RANK_MAX}")))?;
    if header.tensors.len() != n_factors {
        let base_of = |name: &String| {
            let base = name.strip_suffix(".lora_a").or(name.strip_suffix(".lora_b"))?;
            sft.tensors.get(base).filter(|place| is_layer(base, place))
        };
        let stranger = header.tensors.keys().find(|name| base_of(name).is_none()).map_or("", String::as_str);
        return Err(Malformed(format!("tensor {stranger}: it is no factor of one of version 0's layers")));
    }
    Ok(Form::Adapter { rank, is_complete })
}

fn check_factor(name: &str, expected: &[u64; 2], found: &Place) -> Result<(), Malformed> {
    check_dims(name, expected, found)?;
    match found.kind.name {
        "F32" | "F16" | "BF16" => Ok(()),
        other => Err(Malformed(format!("tensor {name}: type {other}, expected F32, F16 or BF16"))),
    }
}

fn check_dims(name: &str, expected: &[u64], found: &Place) -> Result<(), Malformed> {
    if found.dims == expected {
        return Ok(());
    }
    Err(Malformed(format!("tensor {name}: expected shape {expected:?}, got {:?}", found.dims)))
}

/// Hyperparameters are version 0's; nothing else is said that llama.cpp would listen to.
fn check_keys(found: &Metadata, sft: &Metadata, form: Form) -> Result<(), Malformed> {
    let is_whole = form == Form::Whole;
    let architecture = sft.string("general.architecture").map_err(|error| Malformed(error.to_string()))?;
    let shape = format!("{architecture}.");
    for key in ["general.architecture", "general.type"] {
        // An adapter says that it is one; llama.cpp takes both for texts without asking.
        let is_same = match (key, found.get(key)) {
            ("general.type", None) => true,
            ("general.type", Some(Value::String(kind))) => (kind == "adapter") != is_whole,
            (_, Some(Value::String(name))) => name == architecture,
            _ => false,
        };
        if !is_same {
            return Err(Malformed(format!("key {key}: got {}, which is not version 0's", shown(found.get(key)))));
        }
    }
    for (key, value) in found.iter() {
        let is_known = match key {
            _ if key.starts_with(&shape) => sft.get(key).is_some_and(|expected| is_equal(value, expected)),
            "adapter.type" | "adapter.lora.alpha" => !is_whole,
            _ => key.starts_with("tokenizer.") || FREE.iter().any(|prefix| key.starts_with(prefix)),
        };
        if !is_known {
            return Err(Malformed(format!(
                "key {key}: got {}, version 0 has {}",
                shown(Some(value)),
                shown(sft.get(key))
            )));
        }
    }
    let missing = sft.iter().map(|(key, _)| key).find(|key| key.starts_with(&shape) && found.get(key).is_none());
    match missing.filter(|_| is_whole) {
        Some(key) => Err(Malformed(format!("key {key}: it is missing"))),
        None => Ok(()),
    }
}

/// Equal in type and in every bit.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b)),
        _ => a.value_type() == b.value_type() && format!("{a:?}") == format!("{b:?}"),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Array(entries)) => format!("a list of {}", entries.len()),
        Some(value) => format!("{:.80}", format!("{value:?}")),
    }
}
