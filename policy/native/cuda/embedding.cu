/* Rows of a table by their ids, and the table's gradient.
 *
 * The gradient of a row is the sum over all places where its id stands, which may be one or half the batch. The host sorts the
 * places by id and cuts those of one id into pieces; a piece is summed by itself, then the pieces of an id in their order.
 */
#include "device.cuh"

/* out[row] = table[ids[row]]; a block to a row. */
KERNEL embedding_forward(const float *table, const unsigned *ids, float *out, int width) {
    table = ROW(table, ids[blockIdx.x], width), out = ROW(out, blockIdx.x, width);
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[i] = table[i];
}

/* sums[piece] = Σ g[places[k]] over k from starts[piece] to before starts[piece + 1]; a thread to a column. */
KERNEL embedding_pieces(const float *g, const unsigned *places, const unsigned *starts, float *sums, int width) {
    const int piece = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0;
#pragma unroll 4
    for (unsigned k = starts[piece]; k < starts[piece + 1]; ++k) sum += ROW(g, places[k], width)[column];
    ROW(sums, piece, width)[column] = sum;
}

/* d_table[ids[i]] = Σ sums[piece] over pieces first[i] to before first[i + 1]; other rows are left alone. */
KERNEL embedding_rows(const float *sums, const unsigned *ids, const unsigned *first, float *d_table, int width) {
    const int i = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0;
    for (unsigned piece = first[i]; piece < first[i + 1]; ++piece) sum += ROW(sums, piece, width)[column];
    ROW(d_table, ids[i], width)[column] = sum;
}
