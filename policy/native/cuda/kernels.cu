/* All kernels in one module: loaded once, held for as long as the process runs. */
#include "attention.cu"
#include "elementwise.cu"
#include "embedding.cu"
#include "log_prob.cu"
#include "rms_norm.cu"
