//! A GPU through candle's device: our module loaded once, launches on the stream on which candle works too.
//!
//! Nothing here has run on a device yet.

use std::{
    ffi::c_void,
    sync::{Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Error, Result,
    cuda_backend::cudarc::{
        cublas::{
            result::gemm_ex,
            sys::{cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType},
        },
        driver::{
            CudaFunction, CudaSlice, DevicePtr, LaunchConfig, PushKernelArg, result,
            sys::{CUfunction_attribute, CUmemPool_attribute},
        },
        nvrtc::Ptx,
    },
};

use super::{
    launch::{Argument, Kernel, Launch, Place},
    machine::Room,
    product::Blas,
};
use crate::kernels::Precision;

/// A fat binary: machine code for the GPU that the build named, and PTX for compute capability 8.0 and later.
static MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// What a block may use of shared memory without being asked; more has to be allowed, kernel by kernel.
const SHARED_BYTES_FREE: u32 = 48 << 10;

/// A device and its kernels.
pub(crate) struct Gpu {
    device: CudaDevice,
    /// By the number of the kernel.
    functions: Vec<CudaFunction>,
}

/// Opens a GPU for training.
///
/// On a stream of its own: on candle's default one, work goes to a queue of the thread that submits it, and what two threads do
/// to one tensor is not in order. With one stream everything is, so the two events a tensor by which streams would wait for
/// each other are turned off. And the driver's pool keeps what is freed: by default it gives memory back at every
/// synchronisation, and the next pass maps it anew.
///
/// # Errors
/// When there is no such GPU, or the driver is older than the toolkit that the kernels were built with.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: the device has one stream, which is what order there has to be follows from.
    unsafe { device.disable_event_tracking() };
    let everything = u64::MAX;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is one that the driver has named, and the attribute's value is 64 bits that outlive the call.
    unsafe {
        let pool =
            result::device::get_default_mem_pool(device.cuda_stream().context().cu_device()).map_err(Error::wrap)?;
        result::mem_pool::set_attribute(pool, attribute, (&raw const everything).cast_mut().cast())
            .map_err(Error::wrap)?;
    }
    Ok(Device::Cuda(device))
}

/// The kernels on candle's device. They stay for as long as the process runs.
pub(super) fn of(device: &CudaDevice) -> Result<&'static Gpu> {
    static GPUS: Mutex<Vec<&'static Gpu>> = Mutex::new(Vec::new());
    let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.device.id() == device.id()) {
        return Ok(gpu);
    }
    let gpu = Box::leak(Box::new(Gpu::load(device)?));
    gpus.push(gpu);
    Ok(gpu)
}

impl Gpu {
    fn load(device: &CudaDevice) -> Result<Gpu> {
        let context = device.cuda_stream().context().clone();
        let module = context.load_module(Ptx::from_binary(MODULE.to_vec())).map_err(Error::wrap)?;
        let load = |kernel: &Kernel| {
            let function = module.load_function(kernel.name()).map_err(Error::wrap)?;
            if kernel.shared_bytes() > SHARED_BYTES_FREE {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                function.set_attribute(attribute, kernel.shared_bytes() as i32).map_err(Error::wrap)?;
            }
            Ok(function)
        };
        Ok(Gpu { device: device.clone(), functions: Kernel::ALL.iter().map(load).collect::<Result<_>>()? })
    }

    pub(super) fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    pub(super) fn room(&self, n: usize) -> Result<Room> {
        // SAFETY: f32 has no invalid bits, and kernels write rooms before anybody reads them.
        let slice = unsafe { self.device.alloc::<f32>(n.max(1)) }?;
        Ok(Room::Gpu(slice, self.device.clone()))
    }

    pub(super) fn zeros(&self, n: usize) -> Result<Room> {
        Ok(Room::Gpu(self.device.alloc_zeros::<f32>(n.max(1))?, self.device.clone()))
    }

    pub(super) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&self.functions[launch.kernel as usize]);
        for argument in &launch.arguments {
            match argument {
                Argument::Address(x) => builder.arg(x),
                Argument::Int(x) => builder.arg(x),
                Argument::Long(x) => builder.arg(x),
                Argument::Float(x) => builder.arg(x),
            };
        }
        let [x, y] = launch.grid;
        let config = LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (launch.kernel.threads(), 1, 1),
            shared_mem_bytes: launch.kernel.shared_bytes(),
        };
        // SAFETY: arguments are those that the kernel takes and stay within their buffers, which the tests of the emulation hold
        // every launch of this crate to; buffers are freed on the same stream, so after the kernel.
        unsafe { builder.launch(config) }.map_err(Error::wrap)?;
        Ok(())
    }

    pub(super) fn product(&self, blas: &Blas) -> Result<()> {
        let operation = |is_transposed: bool| match is_transposed {
            true => cublasOperation_t::CUBLAS_OP_T,
            false => cublasOperation_t::CUBLAS_OP_N,
        };
        let [op_a, op_b] = blas.is_transposed.map(operation);
        let Blas { m, n, k, a, lda, b, ldb, beta, c, ldc, precision, .. } = *blas;
        // Numbers are f32 in memory either way; the second lets cuBLAS round the factors, as it does where its matrix units take the
        // shape, and keeps sums in f32.
        let arithmetic = match precision {
            Precision::F32 => cublasComputeType_t::CUBLAS_COMPUTE_32F,
            Precision::Bf16 => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_16BF,
        };
        let numbers = cudaDataType::CUDA_R_32F;
        let handle = *self.device.cublas_handle().handle();
        let alpha = 1.0f32;
        // SAFETY: the matrices lie on the device with the sides that `Product` has checked; the factors are host memory that
        // outlives the call.
        let done = unsafe {
            gemm_ex(
                handle,
                op_a,
                op_b,
                m,
                n,
                k,
                (&raw const alpha).cast(),
                a as *const c_void,
                numbers,
                lda,
                b as *const c_void,
                numbers,
                ldb,
                (&raw const beta).cast(),
                c as *mut c_void,
                numbers,
                ldc,
                arithmetic,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(Error::wrap)
    }
}

/// Where a tensor's storage begins.
pub(super) fn start_of(storage: &CudaStorage, dtype: DType) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    // The guards order streams among each other; here is only one.
    Ok(match dtype {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        _ => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
    })
}

/// A room's place.
pub(super) fn place_of<'a>(slice: &'a CudaSlice<f32>, device: &CudaDevice) -> Place<'a> {
    Place::new(slice.device_ptr(&device.cuda_stream()).0, slice.len())
}
