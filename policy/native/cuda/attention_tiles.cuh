/* Tiles of attention: how a block of 256 threads loads, multiplies and stores them.
 *
 * Thread (ty, tx) of 16 × 16 owns rows ty + 16i and columns tx + 16j of a tile of scores, and of a tile of results rows
 * ty + 16i and columns 4tx + 64c to 4tx + 64c + 3: rows of a tile in shared memory are 4 numbers longer than they need be, so
 * that 16-byte reads of neighbouring rows fall into different banks. All rows of one ty belong to one half of a warp.
 */
#pragma once

#include "device.cuh"

struct Heads {
    int n, n_kv, dim;
    float scale;
};

/* One block's place. */
struct Place {
    size_t start;
    int len, first;
    __device__ explicit Place(const unsigned *tiles) {
        tiles += 3 * static_cast<size_t>(blockIdx.x);
        start = tiles[0], len = static_cast<int>(tiles[1]), first = static_cast<int>(tiles[2]);
    }
};

/* T rows and DIM columns, of which those past the real ones are zeros. */
template <int T, int DIM>
struct Tiles {
    static constexpr int STRIDE = DIM + 4, WEIGHTS = T + 4;
    static constexpr int N = T * STRIDE, R = T / 16, C = DIM / 16;

    static __device__ void load(float *tile, const float *x, size_t width, const Place &place, int first, int dim, float factor) {
        x += place.start * width;
        for (int i = threadIdx.x; i < T * DIM; i += 256) {
            const int row = i / DIM, column = i % DIM;
            const bool is_inside = first + row < place.len && column < dim;
            tile[row * STRIDE + column] = is_inside ? factor * ROW(x, first + row, width)[column] : 0.0f;
        }
    }

    /* s = a·bᵀ. */
    static __device__ __forceinline__ void scores(const float *a, const float *b, float (&s)[R][R]) {
        const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
            for (int j = 0; j < R; ++j) s[i][j] = 0;
#pragma unroll 2
        for (int d = 0; d < DIM; d += 4) {
            float4 left[R];
#pragma unroll
            for (int i = 0; i < R; ++i) left[i] = *reinterpret_cast<const float4 *>(&a[(ty + 16 * i) * STRIDE + d]);
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const float4 right = *reinterpret_cast<const float4 *>(&b[(tx + 16 * j) * STRIDE + d]);
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    s[i][j] += left[i].x * right.x;
                    s[i][j] += left[i].y * right.y;
                    s[i][j] += left[i].z * right.z;
                    s[i][j] += left[i].w * right.w;
                }
            }
        }
    }

    static __device__ __forceinline__ void add(float (&sum)[C], int c, float weight, const float4 &x) {
        sum[4 * c] += weight * x.x;
        sum[4 * c + 1] += weight * x.y;
        sum[4 * c + 2] += weight * x.z;
        sum[4 * c + 3] += weight * x.w;
    }

    /* sum += weights·b. */
    static __device__ __forceinline__ void mix(const float *weights, const float *b, float (&sum)[R][C]) {
        const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll 2
        for (int t = 0; t < T; t += 4) {
            float4 w[R];
#pragma unroll
            for (int i = 0; i < R; ++i) w[i] = *reinterpret_cast<const float4 *>(&weights[(ty + 16 * i) * WEIGHTS + t]);
#pragma unroll
            for (int c = 0; c < C / 4; ++c) {
                const float *x = &b[t * STRIDE + 4 * tx + 64 * c];
                const float4 x0 = *reinterpret_cast<const float4 *>(x), x1 = *reinterpret_cast<const float4 *>(x + STRIDE);
                const float4 x2 = *reinterpret_cast<const float4 *>(x + 2 * STRIDE);
                const float4 x3 = *reinterpret_cast<const float4 *>(x + 3 * STRIDE);
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    add(sum[i], c, w[i].x, x0);
                    add(sum[i], c, w[i].y, x1);
                    add(sum[i], c, w[i].z, x2);
                    add(sum[i], c, w[i].w, x3);
                }
            }
        }
    }

    static __device__ __forceinline__ void clear(float (&sum)[R][C]) {
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
            for (int c = 0; c < C; ++c) sum[i][c] = 0;
    }

    static __device__ __forceinline__ void scale_row(float (&sum)[C], float factor) {
#pragma unroll
        for (int c = 0; c < C; ++c) sum[c] *= factor;
    }

    /* Rows and columns that are real. */
    static __device__ void store(float *out, size_t width, const Place &place, int dim, const float (&sum)[R][C]) {
        const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
        out += place.start * width;
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const int row = place.first + ty + 16 * i;
#pragma unroll
            for (int c = 0; c < C; ++c) {
                const int column = 4 * tx + 64 * (c / 4) + c % 4;
                if (row < place.len && column < dim) ROW(out, row, width)[column] = sum[i][c];
            }
        }
    }
};
