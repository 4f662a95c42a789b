/* RMSNorm, a warp to a row: y = x·s·w with s = 1/sqrt(mean(x²) + eps).
 *
 * Backward, with h = g·w: dx = s·h − x·s³·mean(h·x), dw = Σ_rows g·x·s. dw is summed in two stages, some rows to a part and then
 * the parts in their order.
 */
#include "device.cuh"

__device__ __forceinline__ float inverse_rms(const float *x, int width, float eps) {
    float squares = 0;
    for (int i = threadIdx.x % WARP; i < width; i += WARP) squares += x[i] * x[i];
    return 1.0f / sqrtf(sum_over<WARP>(squares) / width + eps);
}

KERNEL rms_norm_forward(const float *x, const float *gain, float *y, int rows, int width, float eps) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= rows) return;
    x = ROW(x, row, width), y = ROW(y, row, width);
    const float s = inverse_rms(x, width, eps);
    for (int i = threadIdx.x % WARP; i < width; i += WARP) y[i] = x[i] * s * gain[i];
}

/* `inverses [rows]`: s of every row, for the gain's gradient. */
KERNEL rms_norm_backward(const float *x, const float *gain, const float *g, float *dx, float *inverses, int rows, int width,
                         float eps) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x = ROW(x, row, width), g = ROW(g, row, width), dx = ROW(dx, row, width);
    const float s = inverse_rms(x, width, eps);
    float product = 0;
    for (int i = lane; i < width; i += WARP) product += g[i] * gain[i] * x[i];
    const float c = s * s * s * sum_over<WARP>(product) / width;
    for (int i = lane; i < width; i += WARP) dx[i] = g[i] * gain[i] * s - x[i] * c;
    if (lane == 0) inverses[row] = s;
}

/* Part blockIdx.y of dw, a thread to a column: rows blockIdx.y·rows_a_part and on. `parts [parts, width]`. */
KERNEL rms_norm_gain_parts(const float *x, const float *g, const float *inverses, float *parts, int rows, int width,
                           int rows_a_part) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const int first = blockIdx.y * rows_a_part, last = min(first + rows_a_part, rows);
    float sum = 0;
#pragma unroll 4
    for (int row = first; row < last; ++row) sum += ROW(g, row, width)[column] * ROW(x, row, width)[column] * inverses[row];
    ROW(parts, blockIdx.y, width)[column] = sum;
}

/* out = Σ parts, in order. */
KERNEL sum_parts(const float *parts, float *out, int n_parts, int width) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0;
    for (int part = 0; part < n_parts; ++part) sum += ROW(parts, part, width)[column];
    out[column] = sum;
}
