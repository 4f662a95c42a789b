/* Log-probability and entropy of rows of logits, and their gradients; a block of 256 threads to a row.
 *
 * ℓ = z_target − log Σ e^z and H = −Σ p log p, with z = logits/temperature, the maximum subtracted first. Backward:
 * dℓ/dlogit_j = (1[j = target] − p_j)/τ, dH/dlogit_j = −p_j(log p_j + H)/τ.
 */
#include "device.cuh"

#define THREADS 256
/* Below this a probability is 0 in f32, and its product with a logit of minus infinity would be NaN. */
#define NO_MASS -80.0f

/* `inverses [rows]`: 1 over the temperature. Writes ℓ, H and log Σ e^z, `[rows]` each. */
KERNEL log_prob_forward(const float *logits, const unsigned *targets, const float *inverses, float *log_probs, float *entropies,
                        float *log_sums, int vocab) {
    DYNAMIC_SHARED(room);
    const int row = blockIdx.x;
    const float inverse = inverses[row];
    logits = ROW(logits, row, vocab);
    float most = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += THREADS) most = fmaxf(most, logits[i]);
    most = block_max<THREADS>(most, room) * inverse;
    float sum = 0, weighted = 0;
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        const float shifted = logits[i] * inverse - most, e = expf(shifted);
        sum += e;
        weighted += shifted < NO_MASS ? 0.0f : shifted * e;
    }
    sum = block_sum<THREADS>(sum, room);
    weighted = block_sum<THREADS>(weighted, room);
    if (threadIdx.x != 0) return;
    const float log_sum = logf(sum);
    /* The maximum is taken off first: their difference is exact, the whole log-sum is not. */
    log_probs[row] = (logits[targets[row]] * inverse - most) - log_sum;
    entropies[row] = log_sum - weighted / sum;
    log_sums[row] = most + log_sum;
}

/* Puts d(slope·ℓ + entropy_slope·H)/d logits in the logits' place. */
KERNEL log_prob_backward(float *logits, const unsigned *targets, const float *inverses, const float *entropies,
                         const float *log_sums, const float *slopes, const float *entropy_slopes, int vocab) {
    const int row = blockIdx.x, target = static_cast<int>(targets[row]);
    const float inverse = inverses[row], entropy = entropies[row], log_sum = log_sums[row];
    const float factor = slopes[row] * inverse, entropy_factor = entropy_slopes[row] * inverse;
    logits = ROW(logits, row, vocab);
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        const float log_p = logits[i] * inverse - log_sum, p = expf(log_p);
        const float bend = log_p < NO_MASS ? 0.0f : p * (log_p + entropy);
        logits[i] = factor * ((i == target ? 1.0f : 0.0f) - p) - entropy_factor * bend;
    }
}
#undef THREADS
