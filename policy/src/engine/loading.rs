//! From a file to a context that has proved itself.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc};

use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{KvCacheType, LlamaContextParams},
    },
    model::LlamaModel,
};

use llama_cpp_sys_2::{
    LLAMA_FLASH_ATTN_TYPE_AUTO, LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_flash_attn_type,
};

use crate::{
    architecture::Shape,
    decoder,
    engine::{
        EngineError, adapter,
        backend::backend,
        cells::{Cells, UNIFIED},
        compute::{Compute, Entry},
        gguf,
        model::Model,
        plan::score_rows_max,
        softmax::largest_logit,
        worker::Setup,
    },
    sampling::check_token,
    threads,
    token::TokenId,
};

/// Tokens of the canary forward.
const CANARY_TOKENS: usize = 16;
/// Below this many parameters one thread serves best.
const ONE_THREAD_PARAMETERS_MAX: u64 = 4_000_000;

/// `policy.flash_attention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlashAttention {
    /// On, except where weights in f32 ask for exactness on a CPU.
    Auto,
    On,
    Off,
}

impl FlashAttention {
    pub(super) fn of(configured: &str) -> FlashAttention {
        match configured {
            "on" => FlashAttention::On,
            "off" => FlashAttention::Off,
            _ => FlashAttention::Auto,
        }
    }

    /// Whether llama.cpp is asked for the matrix of scores instead.
    pub(super) fn is_off(self, is_f32: bool, gpu_layers: u32) -> bool {
        self.policy(is_f32, gpu_layers) == LLAMA_FLASH_ATTN_TYPE_DISABLED
    }

    /// As llama.cpp takes it; its own "auto" turns it off where the device has no kernel.
    fn policy(self, is_f32: bool, gpu_layers: u32) -> llama_flash_attn_type {
        match self {
            FlashAttention::On => LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Auto if !is_f32 || gpu_layers > 0 => LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::Auto | FlashAttention::Off => LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }
    }
}

/// What a resident computes with.
pub(super) struct Weights {
    /// Its own, or version 0's.
    pub(super) model: Model,
    /// File of the adapter beside version 0's.
    pub(super) adapter: Option<PathBuf>,
}

/// An adapter beside version 0's weights, by what computes with those.
pub(super) enum Adapter<'m> {
    LlamaCpp(adapter::Adapter<'m>),
    Decoder(Arc<decoder::Adapter>),
}

/// Loads the weights, after a look at the header that llama.cpp would trust; of an adapter, nothing yet. `base`: version 0's.
pub(super) fn weights(setup: &Setup, base: Option<&Model>) -> Result<Weights, EngineError> {
    let found = gguf::inspect(&setup.path)?;
    match (found.is_adapter, base) {
        (false, _) => Ok(Weights { model: Model::load(setup, &found)?, adapter: None }),
        (true, Some(base)) => Ok(Weights { model: base.clone(), adapter: Some(setup.path.clone()) }),
        (true, None) => Err(refused(setup, "it is an adapter, and version 0 must be a whole model")),
    }
}

/// The adapter of these weights, if they have one.
pub(super) fn adapter<'m>(weights: &'m Weights, setup: &Setup) -> Result<Option<Adapter<'m>>, EngineError> {
    let load = |path: &PathBuf| match &weights.model {
        Model::LlamaCpp(model) => adapter::Adapter::load(model, path).map(Adapter::LlamaCpp),
        Model::Decoder(model) => {
            let adapter = decoder::Adapter::load(path, model).map_err(|error| error.to_string())?;
            Ok(Adapter::Decoder(Arc::new(adapter)))
        }
    };
    weights.adapter.as_ref().map(load).transpose().map_err(|reason| refused(setup, &reason))
}

/// `parallel` sequences of `context_tokens` each, computed with `adapter` where there is one.
pub(super) fn compute<'m>(
    weights: &'m Weights,
    adapter: Option<&Adapter<'m>>,
    setup: &Setup,
) -> Result<Compute<'m>, EngineError> {
    let n_batch = setup.batch_tokens + setup.parallel;
    match (&weights.model, adapter) {
        (Model::LlamaCpp(model), adapter) => {
            let adapter = adapter.and_then(|adapter| if let Adapter::LlamaCpp(it) = adapter { Some(it) } else { None });
            Ok(Compute::llama_cpp(context(model, adapter, setup, weights.model.is_f32())?, n_batch))
        }
        (Model::Decoder(model), adapter) => {
            let adapter = adapter.and_then(|adapter| if let Adapter::Decoder(it) = adapter { Some(it) } else { None });
            let limits = limits(setup, model.shape(), model.is_f32());
            let context = decoder::Context::new(Arc::clone(model), adapter.cloned(), limits);
            let context =
                context.map_err(|error| refused(setup, &format!("no threads or no memory for it: {error}")))?;
            Ok(Compute::Decoder(Box::new(context)))
        }
    }
}

/// What the decoder has room for.
pub(super) fn limits(setup: &Setup, shape: &Shape, is_f32: bool) -> decoder::Limits {
    let n_wanted = setup.parallel + score_rows_max(shape.vocab_size);
    decoder::Limits {
        n_sequences: setup.parallel,
        n_positions: setup.context_tokens as usize,
        n_rows: setup.batch_tokens + setup.parallel,
        n_wanted: n_wanted.max(CANARY_TOKENS).min(setup.batch_tokens + setup.parallel),
        n_kept: setup.prefix_cache_tokens,
        n_threads: threads_of(shape.n_parameters() as u64, setup),
        is_f32,
    }
}

/// A context for `parallel` sequences of `context_tokens` each.
///
/// Weights in f32 get a cache in f32: they are served for exactness (the trainer's log-probs are compared with these), and
/// a cache in f16 alone would cost three digits.
///
/// Computes with `adapter` where there is one. The cache's memory, which may be larger than the weights, is cleared at a low
/// priority where others serve: their streams would stand still meanwhile. Whoever loads is their [guest](super::rest::Guest).
fn context<'m>(
    model: &'m LlamaModel,
    adapter: Option<&adapter::Adapter<'m>>,
    setup: &Setup,
    is_f32: bool,
) -> Result<LlamaContext<'m>, EngineError> {
    let parallel = u32::try_from(setup.parallel).map_err(|_| refused(setup, "too many sequences"))?;
    let n_ctx = setup.context_tokens.checked_mul(parallel).and_then(NonZeroU32::new);
    let n_ctx = n_ctx.ok_or_else(|| refused(setup, "the context windows together exceed 2^32 tokens"))?;
    let n_batch = u32::try_from(setup.batch_tokens + setup.parallel).map_err(|_| refused(setup, "batch too large"))?;
    let threads = i32::try_from(threads_of(model.n_params(), setup)).unwrap_or(1);
    let cache_type = if is_f32 { KvCacheType::F32 } else { KvCacheType::F16 };
    let params = LlamaContextParams::default()
        .with_n_ctx(Some(n_ctx))
        .with_n_batch(n_batch)
        .with_n_ubatch(n_batch)
        .with_n_seq_max(parallel)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(cache_type)
        .with_type_v(cache_type)
        .with_kv_unified(UNIFIED)
        .with_flash_attention_policy(setup.flash_attention.policy(is_f32, setup.gpu_layers))
        .with_no_perf(true);
    let no_context = |reason: &str| refused(setup, &format!("llama.cpp gave no context: {reason}"));
    let backend = backend()?;
    let context = quietly(setup, || model.new_context(backend, params));
    let mut context = context.map_err(|e| no_context(&e.to_string()))?;
    if let Some(adapter) = adapter {
        adapter.apply(&mut context).map_err(|reason| refused(setup, &reason))?;
    }
    Ok(context)
}

/// Threads of a pass: as configured, or one per core; but a very small model decodes single tokens faster on one thread
/// (tiny: 170 against 230 µs) than it meets at barriers, and leaves the other core to the rest of the daemon. Prefill too:
/// it meets at some two hundred barriers whatever its length, and where another process wants the cores, each of them
/// waits for a time slice (seen: 0.95 s for a prompt of two tokens).
fn threads_of(n_params: u64, setup: &Setup) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match setup.threads {
        0 if n_params < ONE_THREAD_PARAMETERS_MAX => 1,
        0 => cores,
        configured => configured,
    }
}

/// Whether every sequence has passes of its own: where its bits may depend on nothing else, and the shape of a pass shows in them.
pub(super) fn isolates(model: &Model, setup: &Setup) -> bool {
    setup.deterministic && !model.is_batch_invariant()
}

/// Tokens from which on copying a sequence's whole buffer is cheaper than computing them: buffer bytes at 8 GB/s against
/// tokens at 6·10^10 parameters a second, both measured on two cores. The decoder's sequences share what they hold.
pub(super) fn copy_pays_from(model: &Model, setup: &Setup) -> usize {
    if matches!(model, Model::Decoder(_)) {
        return 1;
    }
    let copy_s = buffer_bytes(model, setup) / 8e9;
    let token_s = model.n_params().max(1) as f64 / 6e10;
    (copy_s / token_s).ceil().clamp(1.0, f64::from(u32::MAX)) as usize
}

/// How often all weights are read while a sequence's whole buffer is copied.
pub(super) fn reads_of_a_move(model: &Model, setup: &Setup) -> usize {
    (buffer_bytes(model, setup) / model.n_bytes().max(1) as f64).ceil().clamp(1.0, f64::from(u32::MAX)) as usize
}

/// Bytes of a sequence's keys and values, in f32.
fn buffer_bytes(model: &Model, setup: &Setup) -> f64 {
    4.0 * model.cell_numbers() as f64 * f64::from(setup.context_tokens)
}

/// Tokens of the prefix cache: as configured, but none where nobody could use them.
pub(super) fn cache_tokens(model: &Model, setup: &Setup) -> usize {
    let is_of_use = model.can_be_cut() && !isolates(model, setup);
    if is_of_use { setup.prefix_cache_tokens } else { 0 }
}

/// A first forward pass before any client's: it must give finite logits everywhere, and it warms the allocations.
///
/// Beside others who serve it takes no turn at the gate, for which their streams would wait, but computes in the idle class, in
/// their rests.
pub(super) fn canary(cells: &mut Cells<'_>, setup: &Setup) -> Result<(), EngineError> {
    let vocabulary = &setup.vocabulary;
    let n = CANARY_TOKENS.min(setup.context_tokens as usize - 1).min(setup.batch_tokens);
    let step = (vocabulary.size() / n).max(1);
    let ids = (0..vocabulary.size()).step_by(step).filter_map(|id| u32::try_from(id).ok()).map(TokenId);
    let tokens: Vec<TokenId> = ids.take(n).collect();
    let version = setup.version;
    let forward = |reason: String| EngineError::Forward { version, reason };
    for &id in &tokens {
        check_token("canary", id, vocabulary.size()).map_err(|e| forward(e.to_string()))?;
    }
    let finite = quietly(setup, || is_finite(cells, &tokens, setup.beside_serving)).map_err(forward)?;
    if !finite {
        return Err(forward("the canary's logits are not finite".into()));
    }
    Ok(())
}

/// Runs `tokens` through the empty first sequence and tells whether every row of logits is finite.
fn is_finite(cells: &mut Cells<'_>, tokens: &[TokenId], alone: bool) -> Result<bool, String> {
    let entry =
        |(position, token): (usize, &TokenId)| Entry { token: *token, sequence: 0, position, gives_logits: true };
    let batch: Vec<Entry> = tokens.iter().enumerate().map(entry).collect();
    cells.decode(&batch, alone)?;
    let finite = (0..batch.len()).all(|at| largest_logit(cells.compute.logits(at)).is_ok());
    cells.clear(0);
    Ok(finite)
}

/// Runs `work` in the idle class where others serve meanwhile. Where nobody does, the daemon itself waits for it, on a machine
/// that may be busy with other things.
fn quietly<T: Send>(setup: &Setup, work: impl FnOnce() -> T + Send) -> T {
    if setup.beside_serving { threads::apart(threads::give_way, work) } else { work() }
}

fn refused(setup: &Setup, reason: &str) -> EngineError {
    EngineError::Load { path: setup.path.clone(), reason: reason.into() }
}
