//! llama.cpp's process-wide state: started once, quiet by default.
//!
//! llama.cpp writes some two hundred lines for each model it loads, and a learning daemon loads one every few seconds. So
//! its information becomes `debug`, its debugging `trace`, and only warnings and errors keep their level. They carry the
//! target `llama_cpp`, which a log filter can name.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::OnceLock,
};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2::{
    GGML_LOG_LEVEL_DEBUG, GGML_LOG_LEVEL_ERROR, GGML_LOG_LEVEL_INFO, GGML_LOG_LEVEL_WARN, ggml_log_level, ggml_log_set,
    llama_log_set,
};

use crate::engine::EngineError;

/// llama.cpp, started on first use; lives as long as the process.
///
/// # Errors
/// [`EngineError::Backend`], the same one each time.
pub(crate) fn backend() -> Result<&'static LlamaBackend, EngineError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND.get_or_init(start).as_ref().map_err(|reason| EngineError::Backend(reason.clone()))
}

fn start() -> Result<LlamaBackend, String> {
    // SAFETY: `forward` is a plain function without user data, valid for the life of the process. llama.cpp hands its
    // callback on to ggml, but says so only in its code, hence both calls.
    unsafe {
        llama_log_set(Some(forward), std::ptr::null_mut());
        ggml_log_set(Some(forward), std::ptr::null_mut());
    }
    LlamaBackend::init().map_err(|e| e.to_string())
}

/// Hands one line to `tracing`. Continuations (progress dots) have a level of their own and are dropped.
unsafe extern "C" fn forward(level: ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line = text.trim_end();
    match level {
        GGML_LOG_LEVEL_ERROR => tracing::error!(target: "llama_cpp", "{line}"),
        GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama_cpp", "{line}"),
        GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama_cpp", "{line}"),
        GGML_LOG_LEVEL_DEBUG => tracing::trace!(target: "llama_cpp", "{line}"),
        _ => {}
    }
}
