/* CUDA's words on the processor, as far as our kernels use them: a thread of a block is a fiber.
 *
 * Fibers run one at a time and change places only at barriers and shuffles, in an order that the caller chooses: a kernel that
 * lacks a barrier gives other bits in another order. Shared memory starts as NaN, and what is written past its end is noticed;
 * so are barriers that a part of a block never reaches. What emulation cannot see is the memory model (a shuffle orders memory
 * here, on a GPU only a barrier does), and whether nvcc compiles what g++ does; both wait for a device.
 */
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace emulation {

struct Index {
    unsigned x, y, z;
};

/* The running fiber's place: where threadIdx and the like come from. */
struct Here {
    Index thread, block, block_size, grid;
    float *shared;
};
extern thread_local Here here;

/* Waits for all fibers of the block. */
void block_barrier();
/* Waits for all fibers of the warp. */
void warp_barrier();
/* Hands 8 bytes to the warp and takes those of another lane. */
unsigned long long exchange(unsigned long long bits, unsigned lane);
unsigned lane();

}  // namespace emulation

#define threadIdx (::emulation::here.thread)
#define blockIdx (::emulation::here.block)
#define blockDim (::emulation::here.block_size)
#define gridDim (::emulation::here.grid)
#define DYNAMIC_SHARED(name) float *name = ::emulation::here.shared

inline void __syncthreads() { ::emulation::block_barrier(); }
inline void __syncwarp() { ::emulation::warp_barrier(); }

template <typename Number>
inline Number __shfl_xor_sync(unsigned mask, Number x, int distance) {
    static_assert(sizeof(Number) <= 8, "a shuffle carries at most 8 bytes");
    (void)mask; /* all lanes, always: see device.cuh */
    unsigned long long bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    bits = ::emulation::exchange(bits, ::emulation::lane() ^ static_cast<unsigned>(distance));
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

struct float4 {
    float x, y, z, w;
};

template <typename Number>
inline Number min(Number a, Number b) {
    return b < a ? b : a;
}
