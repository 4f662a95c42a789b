//! What carries launches out, and the buffers that they write.

use std::cell::RefCell;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail, op::BackpropOp};

use super::{
    launch::{Launch, Place},
    product::Product,
};

/// A GPU, or the emulation of one.
#[derive(Clone, Copy)]
pub(crate) enum Machine {
    /// The device of candle's tensors, with our kernels loaded.
    #[cfg(feature = "cuda-trainer")]
    Gpu(&'static super::gpu::Gpu),
    /// The processor.
    #[cfg(test)]
    Emulated(super::emulation::Emulation),
}

/// A buffer of f32 that kernels write and a tensor then owns.
pub(super) enum Room {
    #[cfg(feature = "cuda-trainer")]
    Gpu(candle_core::cuda_backend::cudarc::driver::CudaSlice<f32>, candle_core::CudaDevice),
    #[cfg(test)]
    Host(Vec<f32>),
}

impl Machine {
    /// That of tensors on this device; none on the processor.
    ///
    /// # Errors
    /// When the kernels cannot be loaded.
    pub(crate) fn of(device: &Device) -> Result<Option<Machine>> {
        #[cfg(feature = "cuda-trainer")]
        if let Device::Cuda(device) = device {
            return Ok(Some(Machine::Gpu(super::gpu::of(device)?)));
        }
        let _ = device;
        Ok(None)
    }

    /// The emulation, with threads and blocks in this order.
    #[cfg(test)]
    pub(crate) fn emulated(schedule: u32) -> Machine {
        Machine::Emulated(super::emulation::Emulation { schedule })
    }

    /// Where its tensors lie.
    pub(crate) fn device(&self) -> Device {
        match self {
            #[cfg(feature = "cuda-trainer")]
            Machine::Gpu(gpu) => gpu.device(),
            #[cfg(test)]
            Machine::Emulated(_) => Device::Cpu,
        }
    }

    /// Room for `n` numbers, with whatever is in it.
    pub(super) fn room(&self, n: usize) -> Result<Room> {
        match self {
            #[cfg(feature = "cuda-trainer")]
            Machine::Gpu(gpu) => gpu.room(n),
            // Poison: a number that no kernel writes shows.
            #[cfg(test)]
            Machine::Emulated(_) => Ok(Room::Host(vec![f32::NAN; n])),
        }
    }

    /// Room for `n` numbers, with zeros in it.
    pub(super) fn zeros(&self, n: usize) -> Result<Room> {
        match self {
            #[cfg(feature = "cuda-trainer")]
            Machine::Gpu(gpu) => gpu.zeros(n),
            #[cfg(test)]
            Machine::Emulated(_) => Ok(Room::Host(vec![0.0; n])),
        }
    }

    /// Numbers that kernels read.
    pub(super) fn upload(&self, numbers: &[u32]) -> Result<Tensor> {
        Tensor::new(numbers, &self.device())
    }

    /// Starts a kernel, in order with everything before it.
    pub(super) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        match self {
            #[cfg(feature = "cuda-trainer")]
            Machine::Gpu(gpu) => gpu.launch(launch),
            #[cfg(test)]
            Machine::Emulated(emulation) => emulation.launch(launch),
        }
    }

    /// Computes a matrix product, likewise.
    pub(super) fn product(&self, product: &Product<'_>) -> Result<()> {
        match self {
            #[cfg(feature = "cuda-trainer")]
            Machine::Gpu(gpu) => gpu.product(&product.blas()),
            #[cfg(test)]
            Machine::Emulated(emulation) => {
                emulation.product(&product.blas());
                Ok(())
            }
        }
    }
}

impl Room {
    /// To be written.
    pub(super) fn place(&mut self) -> Place<'_> {
        match self {
            #[cfg(feature = "cuda-trainer")]
            Room::Gpu(slice, device) => super::gpu::place_of(slice, device),
            #[cfg(test)]
            Room::Host(numbers) => Place::new(numbers.as_mut_ptr() as u64, numbers.len()),
        }
    }

    pub(super) fn into_storage(self) -> Storage {
        match self {
            #[cfg(feature = "cuda-trainer")]
            Room::Gpu(slice, device) => Storage::Cuda(candle_core::CudaStorage::wrap_cuda_slice(slice, device)),
            #[cfg(test)]
            Room::Host(numbers) => Storage::Cpu(CpuStorage::F32(numbers)),
        }
    }

    /// As a tensor of this shape, off the tape.
    pub(super) fn into_tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.into_storage(), shape, BackpropOp::none(), false)
    }
}

/// Gives `work` the place of a tensor that it may write.
///
/// # Errors
/// When the tensor is not contiguous f32, and those of `work`.
pub(super) fn write<R>(tensor: &Tensor, work: impl FnOnce(Place<'_>) -> Result<R>) -> Result<R> {
    let write = Write(RefCell::new((Some(work), None)));
    tensor.inplace_op1(&write)?;
    write.0.into_inner().1.expect("candle ran the operation, or returned an error")
}

struct Write<F, R>(RefCell<(Option<F>, Option<Result<R>>)>);

impl<F: FnOnce(Place<'_>) -> Result<R>, R> Write<F, R> {
    fn run(&self, start: u64, layout: &Layout) -> Result<()> {
        let Some((first, last)) = layout.contiguous_offsets() else {
            bail!("a kernel expects contiguous numbers, got {:?}", layout.shape());
        };
        let mut state = self.0.borrow_mut();
        let work = state.0.take().expect("candle runs an operation once");
        state.1 = Some(work(Place::new(start + 4 * first as u64, last - first)));
        Ok(())
    }
}

impl<F: FnOnce(Place<'_>) -> Result<R>, R> InplaceOp1 for Write<F, R> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match storage {
            CpuStorage::F32(numbers) => self.run(numbers.as_mut_ptr() as u64, layout),
            _ => bail!("a kernel expects f32"),
        }
    }

    #[cfg(feature = "cuda-trainer")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> Result<()> {
        self.run(super::gpu::start_of(storage, candle_core::DType::F32)?, layout)
    }
}
