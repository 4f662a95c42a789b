//! From a file to a context that has proved itself.

use std::num::NonZeroU32;

use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{KvCacheType, LlamaContextParams},
    },
    model::{LlamaModel, params::LlamaModelParams},
};

use crate::{
    engine::{
        EngineError,
        backend::backend,
        gguf,
        worker::{Setup, Worker},
    },
    sampling::check_token,
    token::TokenId,
};

/// GGUF's `general.file_type` of a file whose matrices are all f32.
const ALL_F32: &str = "0";
/// Tokens of the canary forward.
const CANARY_TOKENS: usize = 16;

/// Loads the weights, after a look at the header that llama.cpp would trust.
pub(super) fn model(setup: &Setup) -> Result<LlamaModel, EngineError> {
    gguf::inspect(&setup.path)?;
    let params = LlamaModelParams::default().with_n_gpu_layers(setup.gpu_layers);
    let model = LlamaModel::load_from_file(backend()?, &setup.path, &params)
        .map_err(|e| refused(setup, &format!("llama.cpp cannot load it: {e}")))?;
    let (got, want) = (model.n_vocab(), setup.vocabulary.size());
    if usize::try_from(got) != Ok(want) {
        return Err(refused(
            setup,
            &format!("it has {got} tokens, expected {want}"),
        ));
    }
    Ok(model)
}

/// A context for `parallel` sequences of `context_tokens` each.
///
/// Weights in f32 get a cache in f32: they are served for exactness (the trainer's log-probs are compared with these), and
/// a cache in f16 alone would cost three digits.
pub(super) fn context<'m>(
    model: &'m LlamaModel,
    setup: &Setup,
) -> Result<LlamaContext<'m>, EngineError> {
    let parallel =
        u32::try_from(setup.parallel).map_err(|_| refused(setup, "too many sequences"))?;
    let n_ctx = setup
        .context_tokens
        .checked_mul(parallel)
        .and_then(NonZeroU32::new);
    let n_ctx =
        n_ctx.ok_or_else(|| refused(setup, "the context windows together exceed 2^32 tokens"))?;
    let n_batch = u32::try_from(setup.batch_tokens + setup.parallel)
        .map_err(|_| refused(setup, "batch too large"))?;
    let threads = i32::try_from(setup.threads).map_err(|_| refused(setup, "too many threads"))?;
    let is_f32 = model
        .meta_val_str("general.file_type")
        .is_ok_and(|kind| kind == ALL_F32);
    let cache_type = if is_f32 {
        KvCacheType::F32
    } else {
        KvCacheType::F16
    };
    let params = LlamaContextParams::default()
        .with_n_ctx(Some(n_ctx))
        .with_n_batch(n_batch)
        .with_n_ubatch(n_batch)
        .with_n_seq_max(parallel)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(cache_type)
        .with_type_v(cache_type)
        .with_kv_unified(super::cells::UNIFIED)
        .with_no_perf(true);
    model
        .new_context(backend()?, params)
        .map_err(|e| refused(setup, &format!("llama.cpp gave no context: {e}")))
}

impl Worker<'_> {
    /// A first forward pass before any client's: it must give finite logits everywhere, and it warms the allocations.
    pub(super) fn canary(&mut self) -> Result<(), EngineError> {
        let vocabulary = &self.setup.vocabulary;
        let n = CANARY_TOKENS
            .min(self.setup.context_tokens as usize - 1)
            .min(self.setup.batch_tokens);
        let step = (vocabulary.size() / n).max(1);
        let ids = (0..vocabulary.size())
            .step_by(step)
            .filter_map(|id| u32::try_from(id).ok())
            .map(TokenId);
        let tokens: Vec<TokenId> = ids.take(n).collect();
        let version = self.setup.version;
        let forward = |reason: String| EngineError::Forward { version, reason };
        for &id in &tokens {
            check_token("canary", id, vocabulary.size()).map_err(|e| forward(e.to_string()))?;
        }
        let finite = self.forward_all(&tokens).map_err(forward)?;
        if !finite {
            return Err(forward("the canary's logits are not finite".into()));
        }
        Ok(())
    }
}

fn refused(setup: &Setup, reason: &str) -> EngineError {
    EngineError::Load {
        path: setup.path.clone(),
        reason: reason.into(),
    }
}
