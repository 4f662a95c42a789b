/* What every kernel uses: barriers and sums inside a warp and a block.
 *
 * The same files are compiled twice: by nvcc for the GPU, and by the C++ compiler for the processor, where every CUDA thread
 * is a fiber (../emulation). So kernels keep to a few words of CUDA: dynamic shared memory by DYNAMIC_SHARED, whole warps at
 * every shuffle, whole blocks at every barrier. Nothing is summed by atomics: the order of every sum follows from shapes.
 */
#pragma once

#ifdef HONED_EMULATION
#include "../emulation/emulation.h"
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#endif

#define KERNEL extern "C" __global__ void
#define WARP 32
#define ALL_LANES 0xffffffffu

/* A row of a matrix whose numbers may be more than 2^31. */
#define ROW(x, row, width) ((x) + static_cast<size_t>(row) * static_cast<size_t>(width))

/* Every lane gets the sum over all lanes of its group of n, to the same bits. */
template <int n, typename Number>
__device__ __forceinline__ Number sum_over(Number x) {
#pragma unroll
    for (int offset = n / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

/* The largest number of the group; NaN is passed over, so sums must carry it. */
template <int n>
__device__ __forceinline__ float max_over(float x) {
#pragma unroll
    for (int offset = n / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

/* The sum over a block of n threads, for every thread. `room`: one number a warp, shared. */
template <int n, typename Number>
__device__ Number block_sum(Number x, Number *room) {
    x = sum_over<WARP>(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    Number sum = 0;
    for (int warp = 0; warp < n / WARP; ++warp) sum += room[warp];
    __syncthreads();
    return sum;
}

template <int n>
__device__ float block_max(float x, float *room) {
    x = max_over<WARP>(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float most = room[0];
    for (int warp = 1; warp < n / WARP; ++warp) most = fmaxf(most, room[warp]);
    __syncthreads();
    return most;
}
