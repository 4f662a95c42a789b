/* Causal attention over packed sequences with grouped queries, forward and backward (FlashAttention-2, arXiv 2307.08691).
 *
 * A block of 256 threads works on one tile of T queries (forward, dq) or T keys (dk, dv) of one head and walks over the tiles
 * that it meets, so nothing of size len × len exists. Forward keeps its result and the log-sum of every row, from which
 * backward has the weights again in one exponential. dq and the pair dk, dv come from two kernels: each output has one writer,
 * which sums in a fixed order; that costs two of seven products more than sharing scores would, and needs no atomics.
 *
 * `q`, `out [rows, heads·dim]`, `k`, `v [rows, kv_heads·dim]`, `log_sums`, `deltas [rows, heads]`. `tiles [3]` of each block:
 * the first row of its sequence, the sequence's length, the tile's first position in it.
 */
#include "attention_tiles.cuh"

template <int T, int DIM>
__device__ void attention_forward(const float *q, const float *k, const float *v, float *out, float *log_sums,
                                  const unsigned *tiles, const Heads heads) {
    using X = Tiles<T, DIM>;
    DYNAMIC_SHARED(shared);
    float *queries = shared, *keys = queries + X::N, *values = keys + X::N, *weights = values + X::N;
    const Place place(tiles);
    const int head = blockIdx.y, kv = head * heads.n_kv / heads.n, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const size_t width = static_cast<size_t>(heads.n) * heads.dim, kv_width = static_cast<size_t>(heads.n_kv) * heads.dim;
    X::load(queries, q + head * heads.dim, width, place, place.first, heads.dim, heads.scale);
    float sum[X::R][X::C], most[X::R], mass[X::R];
    X::clear(sum);
#pragma unroll
    for (int i = 0; i < X::R; ++i) most[i] = -INFINITY, mass[i] = 0;
    const int end = min(place.first + T, place.len);
    for (int first = 0; first < end; first += T) {
        __syncthreads();
        X::load(keys, k + kv * heads.dim, kv_width, place, first, heads.dim, 1);
        X::load(values, v + kv * heads.dim, kv_width, place, first, heads.dim, 1);
        __syncthreads();
        float s[X::R][X::R];
        X::scores(queries, keys, s);
#pragma unroll
        for (int i = 0; i < X::R; ++i) {
            /* Key 0 is seen by every query, so after the first tile the maximum is a number. */
            float now = most[i];
#pragma unroll
            for (int j = 0; j < X::R; ++j) {
                if (first + tx + 16 * j > place.first + ty + 16 * i) s[i][j] = -INFINITY;
                now = fmaxf(now, s[i][j]);
            }
            now = max_over<16>(now);
            const float shrink = expf(most[i] - now);
            float own = 0;
#pragma unroll
            for (int j = 0; j < X::R; ++j) {
                const float weight = expf(s[i][j] - now);
                weights[(ty + 16 * i) * X::WEIGHTS + tx + 16 * j] = weight;
                own += weight;
            }
            mass[i] = mass[i] * shrink + sum_over<16>(own);
            most[i] = now;
            X::scale_row(sum[i], shrink);
        }
        __syncwarp();
        X::mix(weights, values, sum);
    }
#pragma unroll
    for (int i = 0; i < X::R; ++i) {
        const int row = place.first + ty + 16 * i;
        X::scale_row(sum[i], 1.0f / mass[i]);
        if (tx == 0 && row < place.len) ROW(log_sums, place.start + row, heads.n)[head] = most[i] + logf(mass[i]);
    }
    X::store(out + head * heads.dim, width, place, heads.dim, sum);
}

/* deltas = rowsum(g∘out) of each head, a warp to each. */
KERNEL attention_deltas(const float *out, const float *g, float *deltas, long long n, int dim) {
    const long long i = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (i >= n) return;
    out = ROW(out, i, dim), g = ROW(g, i, dim);
    float sum = 0;
    for (int d = threadIdx.x % WARP; d < dim; d += WARP) sum += out[d] * g[d];
    sum = sum_over<WARP>(sum);
    if (threadIdx.x % WARP == 0) deltas[i] = sum;
}

/* dq = scale·ds·k with ds = p∘(g·vᵀ − delta). */
template <int T, int DIM>
__device__ void attention_slope_q(const float *q, const float *k, const float *v, const float *g, const float *log_sums,
                                  const float *deltas, float *dq, const unsigned *tiles, const Heads heads) {
    using X = Tiles<T, DIM>;
    DYNAMIC_SHARED(shared);
    float *queries = shared, *slopes = queries + X::N, *keys = slopes + X::N, *values = keys + X::N, *weights = values + X::N;
    const Place place(tiles);
    const int head = blockIdx.y, kv = head * heads.n_kv / heads.n, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const size_t width = static_cast<size_t>(heads.n) * heads.dim, kv_width = static_cast<size_t>(heads.n_kv) * heads.dim;
    X::load(queries, q + head * heads.dim, width, place, place.first, heads.dim, heads.scale);
    X::load(slopes, g + head * heads.dim, width, place, place.first, heads.dim, 1);
    float sum[X::R][X::C];
    X::clear(sum);
    const int end = min(place.first + T, place.len);
    for (int first = 0; first < end; first += T) {
        __syncthreads();
        X::load(keys, k + kv * heads.dim, kv_width, place, first, heads.dim, 1);
        X::load(values, v + kv * heads.dim, kv_width, place, first, heads.dim, 1);
        __syncthreads();
        float s[X::R][X::R], ds[X::R][X::R];
        X::scores(queries, keys, s);
        X::scores(slopes, values, ds);
#pragma unroll
        for (int i = 0; i < X::R; ++i) {
            /* Read for every tile: held in registers over the products, they would spill. */
            const int row = place.first + ty + 16 * i;
            const float log_sum = row < place.len ? ROW(log_sums, place.start + row, heads.n)[head] : 0;
            const float delta = row < place.len ? ROW(deltas, place.start + row, heads.n)[head] : 0;
#pragma unroll
            for (int j = 0; j < X::R; ++j) {
                const bool is_seen = first + tx + 16 * j <= row;
                const float weight = is_seen ? expf(s[i][j] - log_sum) * (ds[i][j] - delta) : 0;
                weights[(ty + 16 * i) * X::WEIGHTS + tx + 16 * j] = weight;
            }
        }
        __syncwarp();
        X::mix(weights, keys, sum);
    }
#pragma unroll
    for (int i = 0; i < X::R; ++i) X::scale_row(sum[i], heads.scale);
    X::store(dq + head * heads.dim, width, place, heads.dim, sum);
}

/* dv = pᵀ·g, dk = dsᵀ·(scale·q), over all query heads that read this key head. Rows of scores are keys here. */
template <int T, int DIM>
__device__ void attention_slopes_kv(const float *q, const float *k, const float *v, const float *g, const float *log_sums,
                                    const float *deltas, float *dk, float *dv, const unsigned *tiles, const Heads heads) {
    using X = Tiles<T, DIM>;
    DYNAMIC_SHARED(shared);
    float *queries = shared, *slopes = queries + X::N, *keys = slopes + X::N, *values = keys + X::N, *weights = values + X::N;
    const Place place(tiles);
    const int kv = blockIdx.y, group = heads.n / heads.n_kv, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const size_t width = static_cast<size_t>(heads.n) * heads.dim, kv_width = static_cast<size_t>(heads.n_kv) * heads.dim;
    X::load(keys, k + kv * heads.dim, kv_width, place, place.first, heads.dim, 1);
    X::load(values, v + kv * heads.dim, kv_width, place, place.first, heads.dim, 1);
    float sum_k[X::R][X::C], sum_v[X::R][X::C];
    X::clear(sum_k);
    X::clear(sum_v);
    for (int head = kv * group; head < (kv + 1) * group; ++head)
        for (int first = place.first; first < place.len; first += T) {
            __syncthreads();
            X::load(queries, q + head * heads.dim, width, place, first, heads.dim, heads.scale);
            X::load(slopes, g + head * heads.dim, width, place, first, heads.dim, 1);
            __syncthreads();
            float s[X::R][X::R], ds[X::R][X::R];
            X::scores(keys, queries, s);
#pragma unroll
            for (int j = 0; j < X::R; ++j) {
                const int row = first + tx + 16 * j;
                const float log_sum = row < place.len ? ROW(log_sums, place.start + row, heads.n)[head] : 0;
#pragma unroll
                for (int i = 0; i < X::R; ++i) {
                    const bool is_seen = row < place.len && place.first + ty + 16 * i <= row;
                    s[i][j] = is_seen ? expf(s[i][j] - log_sum) : 0;
                    weights[(ty + 16 * i) * X::WEIGHTS + tx + 16 * j] = s[i][j];
                }
            }
            __syncwarp();
            X::mix(weights, slopes, sum_v);
            X::scores(values, slopes, ds);
            __syncwarp();
#pragma unroll
            for (int j = 0; j < X::R; ++j) {
                const int row = first + tx + 16 * j;
                const float delta = row < place.len ? ROW(deltas, place.start + row, heads.n)[head] : 0;
#pragma unroll
                for (int i = 0; i < X::R; ++i)
                    weights[(ty + 16 * i) * X::WEIGHTS + tx + 16 * j] = s[i][j] * (ds[i][j] - delta);
            }
            __syncwarp();
            X::mix(weights, queries, sum_k);
        }
    X::store(dk + kv * heads.dim, kv_width, place, heads.dim, sum_k);
    X::store(dv + kv * heads.dim, kv_width, place, heads.dim, sum_v);
}

/* The kernels for heads of at most 64 and at most 128 dimensions; tiles of the wider ones are shorter, to fit shared memory. */
#define ATTENTION(DIM, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        attention_forward_##DIM(const float *q, const float *k, const float *v, float *out, float *log_sums,               \
                                const unsigned *tiles, int n, int n_kv, int dim, float scale) {                            \
        attention_forward<T, DIM>(q, k, v, out, log_sums, tiles, Heads{n, n_kv, dim, scale});                              \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        attention_slope_q_##DIM(const float *q, const float *k, const float *v, const float *g, const float *log_sums,     \
                                const float *deltas, float *dq, const unsigned *tiles, int n, int n_kv, int dim,           \
                                float scale) {                                                                             \
        attention_slope_q<T, DIM>(q, k, v, g, log_sums, deltas, dq, tiles, Heads{n, n_kv, dim, scale});                    \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        attention_slopes_kv_##DIM(const float *q, const float *k, const float *v, const float *g, const float *log_sums,   \
                                  const float *deltas, float *dk, float *dv, const unsigned *tiles, int n, int n_kv,       \
                                  int dim, float scale) {                                                                  \
        attention_slopes_kv<T, DIM>(q, k, v, g, log_sums, deltas, dk, dv, tiles, Heads{n, n_kv, dim, scale});              \
    }

ATTENTION(64, 64)
ATTENTION(128, 32)
