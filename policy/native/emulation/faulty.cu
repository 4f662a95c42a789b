/* Kernels with the faults that emulation must see; the tests of the emulation run them. */
#include "../cuda/device.cuh"

/* Half of the warp leaves before a shuffle. */
KERNEL faulty_exit(float *out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = sum_over<WARP>(1.0f);
}

/* Reads what another thread writes, without a barrier between. */
KERNEL faulty_race(float *out) {
    DYNAMIC_SHARED(room);
    room[threadIdx.x] = static_cast<float>(threadIdx.x);
    out[threadIdx.x] = room[(threadIdx.x + 1) % blockDim.x];
}

/* Writes one number past its shared memory. */
KERNEL faulty_shared(float *out) {
    DYNAMIC_SHARED(room);
    room[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = room[threadIdx.x];
}
