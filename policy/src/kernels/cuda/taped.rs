//! A value that kernels have computed, put on candle's tape with the function that carries its gradient back.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use super::machine::Room;

/// candle runs an operation's forward on storages, with nothing kept; so ours runs before, and this hands the result over.
struct Taped<F> {
    name: &'static str,
    value: Mutex<Option<Room>>,
    shape: Shape,
    backward: F,
}

impl<F> Taped<F> {
    fn new(name: &'static str, value: Room, shape: impl Into<Shape>, backward: F) -> Taped<F> {
        Taped { name, value: Mutex::new(Some(value)), shape: shape.into(), backward }
    }

    fn storage(&self) -> Result<Storage> {
        match self.value.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Ok(value.into_storage()),
            None => bail!("{}: a value is put on the tape once", self.name),
        }
    }

    fn host(&self) -> Result<(CpuStorage, Shape)> {
        match self.storage()? {
            Storage::Cpu(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("{}: the value lies on another device than its arguments", self.name),
        }
    }

    #[cfg(feature = "cuda-trainer")]
    fn gpu(&self) -> Result<(candle_core::CudaStorage, Shape)> {
        match self.storage()? {
            Storage::Cuda(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("{}: the value lies on another device than its arguments", self.name),
        }
    }
}

/// A value of one argument; `backward` gets the gradient of the value and returns that of the argument.
pub(super) fn taped1(
    name: &'static str,
    x: &Tensor,
    (value, shape): (Room, &[usize]),
    backward: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op1(Taped::new(name, value, shape, backward))
}

/// The same of two arguments.
pub(super) fn taped2(
    name: &'static str,
    [x, y]: [&Tensor; 2],
    (value, shape): (Room, &[usize]),
    backward: impl Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op2(y, Taped::new(name, value, shape, backward))
}

/// The same of three; `backward` gets the value too.
pub(super) fn taped3(
    name: &'static str,
    [x, y, z]: [&Tensor; 3],
    (value, shape): (Room, &[usize]),
    backward: impl Fn([&Tensor; 3], &Tensor, &Tensor) -> Result<[Tensor; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op3(y, z, Taped::new(name, value, shape, backward))
}

impl<F: Fn(&Tensor, &Tensor) -> Result<Tensor>> CustomOp1 for Taped<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.host()
    }

    #[cfg(feature = "cuda-trainer")]
    fn cuda_fwd(&self, _: &candle_core::CudaStorage, _: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        self.gpu()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(x, &g.contiguous()?).map(Some)
    }
}

impl<F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)>> CustomOp2 for Taped<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.host()
    }

    #[cfg(feature = "cuda-trainer")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.gpu()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, value: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        (self.backward)([x, y], value, &g.contiguous()?)
    }
}

type Slopes3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl<F: Fn([&Tensor; 3], &Tensor, &Tensor) -> Result<[Tensor; 3]>> CustomOp3 for Taped<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.host()
    }

    #[cfg(feature = "cuda-trainer")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.gpu()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, z: &Tensor, value: &Tensor, g: &Tensor) -> Result<Slopes3> {
        let [dx, dy, dz] = (self.backward)([x, y, z], value, &g.contiguous()?)?;
        Ok((Some(dx), Some(dy), Some(dz)))
    }
}
