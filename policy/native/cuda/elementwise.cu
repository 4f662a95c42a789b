/* What works on every number for itself: rotary positions, SwiGLU, AdamW; and sums of squares. */
#include "device.cuh"

__device__ __forceinline__ long long own_index() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/* Rotary positions on neighbouring pairs: (a, b) of pair i turns by the angle of its row's position, forward (direction 1) or
 * backward (-1); dimensions past the rotated pairs stay. `x`, `y [rows, width]`; `cos`, `sin [longest, half]`.
 */
KERNEL rope(const float *x, float *y, const unsigned *positions, const float *cos, const float *sin, long long n, int width,
            int head_dim, int half, float direction) {
    const long long i = own_index();
    if (i >= n) return;
    const int dim = static_cast<int>(i % width) % head_dim, pair = dim / 2;
    if (pair >= half) {
        y[i] = x[i];
        return;
    }
    const size_t angle = static_cast<size_t>(positions[i / width]) * half + pair;
    const float c = cos[angle], s = direction * sin[angle];
    y[i] = dim % 2 == 0 ? x[i] * c - x[i + 1] * s : x[i - 1] * s + x[i] * c;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* y = silu(gate)·up. */
KERNEL swiglu_forward(const float *gate, const float *up, float *y, long long n) {
    const long long i = own_index();
    if (i < n) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

/* With σ = sigmoid(a) of gate a: da = g·u·σ(1 + a(1 − σ)), du = g·a·σ. */
KERNEL swiglu_backward(const float *gate, const float *up, const float *g, float *d_gate, float *d_up, long long n) {
    const long long i = own_index();
    if (i >= n) return;
    const float a = gate[i], s = sigmoid(a);
    d_gate[i] = g[i] * up[i] * s * (1.0f + a * (1.0f - s));
    d_up[i] = g[i] * a * s;
}

/* θ ← keep·θ − rate·(m·scale1)/(sqrt(v·scale2) + eps), after m ← b1·m + c1·g and v ← b2·v + c2·g², with g times `factor`. */
KERNEL adam_w(float *theta, float *m, float *v, const float *g, long long n, float factor, float b1, float b2, float c1, float c2,
              float scale1, float scale2, float rate, float keep, float eps) {
    const long long i = own_index();
    if (i >= n) return;
    const float slope = g[i] * factor;
    const float first = b1 * m[i] + c1 * slope, second = b2 * v[i] + c2 * slope * slope;
    m[i] = first;
    v[i] = second;
    theta[i] = theta[i] * keep - rate * (first * scale1) / (sqrtf(second * scale2) + eps);
}

/* sums[block] = Σ x² over numbers block·numbers_a_block and on; blocks of 256 threads. */
KERNEL sums_of_squares(const float *x, float *sums, long long n, int numbers_a_block) {
    DYNAMIC_SHARED(room);
    const long long first = static_cast<long long>(blockIdx.x) * numbers_a_block;
    const long long last = min(first + numbers_a_block, n);
    /* In f64: the squares of large gradients would drown those of small ones. */
    double sum = 0;
    for (long long i = first + threadIdx.x; i < last; i += blockDim.x) sum += static_cast<double>(x[i]) * x[i];
    sum = block_sum<256>(sum, reinterpret_cast<double *>(room));
    if (threadIdx.x == 0) sums[blockIdx.x] = static_cast<float>(sum);
}
