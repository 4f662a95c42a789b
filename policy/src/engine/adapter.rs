//! A low-rank adapter, served beside weights that other residents serve too.

use std::{
    ffi::CString,
    marker::PhantomData,
    mem,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use llama_cpp_2::{
    context::LlamaContext,
    model::{LlamaLoraAdapter, LlamaModel},
};
use llama_cpp_sys_2::{llama_adapter_lora, llama_adapter_lora_free, llama_adapter_lora_init, llama_model};

/// llama.cpp keeps the list of a model's adapters without a lock: who loads or frees one holds this.
static LIST: Mutex<()> = Mutex::new(());

// Both wrappers are `repr(transparent)` around a pointer, which they do not hand out; freeing an adapter takes one.
const _: () = assert!(size_of::<LlamaModel>() == size_of::<NonNull<llama_model>>());
const _: () = assert!(size_of::<LlamaLoraAdapter>() == size_of::<NonNull<llama_adapter_lora>>());

/// An adapter in memory, freed with this handle. It must outlive the contexts that it is applied to.
pub(super) struct Adapter<'m> {
    raw: NonNull<llama_adapter_lora>,
    model: PhantomData<&'m LlamaModel>,
}

impl<'m> Adapter<'m> {
    /// Loads an adapter file for this model. llama.cpp compares names and shapes with the model's.
    pub(super) fn load(model: &'m LlamaModel, path: &Path) -> Result<Adapter<'m>, String> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| "its path holds a zero byte".to_string())?;
        let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `LlamaModel` is transparent around this pointer, and lives longer than the adapter; llama.cpp changes only
        // its list of adapters, under the lock above; the path ends with a zero byte.
        let raw = unsafe {
            let model = *std::ptr::from_ref(model).cast::<*mut llama_model>();
            llama_adapter_lora_init(model, path.as_ptr())
        };
        let raw = NonNull::new(raw).ok_or_else(|| "llama.cpp cannot use it as an adapter of version 0".to_string())?;
        Ok(Adapter { raw, model: PhantomData })
    }

    /// Makes a context compute with it from now on.
    pub(super) fn apply(&self, context: &mut LlamaContext<'m>) -> Result<(), String> {
        // SAFETY: transparent around this pointer, and without a destructor: the wrapper is a copy of the address.
        let mut wrapper = unsafe { mem::transmute::<NonNull<llama_adapter_lora>, LlamaLoraAdapter>(self.raw) };
        context.lora_adapter_set(&mut wrapper, 1.0).map_err(|error| error.to_string())
    }
}

impl Drop for Adapter<'_> {
    fn drop(&mut self) {
        let _list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: it came from `llama_adapter_lora_init`, nobody else frees it, and the contexts that used it are gone.
        unsafe { llama_adapter_lora_free(self.raw.as_ptr()) }
    }
}
