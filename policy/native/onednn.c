/* The matrix products of the trainer on oneDNN, behind a few functions of plain numbers.
 *
 * oneDNN changed its C interface between versions 2 (Debian 12) and 3 (Debian 13); this file knows both, so that the Rust
 * side sees one. The library is opened when it is first needed, not linked: a binary that moves to a machine without it
 * still starts, and says so. A product runs on the calling thread alone: the trainer splits its work itself, over threads
 * that give way to serving, and the OpenMP threads that oneDNN would start spin between products and would not.
 */
#include <dlfcn.h>
#include <dnnl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

void omp_set_num_threads(int n);

#if DNNL_VERSION_MAJOR >= 3
#define LIBRARY "libdnnl.so.3"
#define OWN(X) X(dnnl_memory_desc_create_with_strides) X(dnnl_memory_desc_destroy) X(dnnl_matmul_primitive_desc_create)
#else
#define LIBRARY "libdnnl.so.2"
#define OWN(X) X(dnnl_memory_desc_init_by_strides) X(dnnl_matmul_desc_init) X(dnnl_primitive_desc_create)
#endif
#define NAMES(X)                                                                                                       \
    OWN(X) X(dnnl_engine_create) X(dnnl_stream_create) X(dnnl_stream_wait) X(dnnl_memory_create)                       \
    X(dnnl_memory_destroy) X(dnnl_memory_set_data_handle) X(dnnl_primitive_create) X(dnnl_primitive_destroy)           \
    X(dnnl_primitive_desc_destroy) X(dnnl_primitive_execute) X(dnnl_primitive_attr_create)                             \
    X(dnnl_primitive_attr_destroy) X(dnnl_primitive_attr_set_post_ops) X(dnnl_post_ops_create)                         \
    X(dnnl_post_ops_destroy) X(dnnl_post_ops_append_sum) X(dnnl_get_effective_cpu_isa) X(omp_set_num_threads)

static struct {
#define X(f) __typeof__(&f) f;
    NAMES(X)
#undef X
} lib;
static dnnl_engine_t engine;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) {
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return;
#define X(f) if (!(lib.f = (__typeof__(lib.f))dlsym(handle, #f))) return;
    NAMES(X)
#undef X
    if (lib.dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) engine = NULL;
}

/* Whether the library is there. */
int honed_onednn_is_here(void) {
    pthread_once(&once, open_library);
    return engine != NULL;
}

struct honed_product {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
};

static dnnl_stream_t stream(void) {
    static __thread dnnl_stream_t own = NULL;
    if (!own) lib.dnnl_stream_create(&own, engine, dnnl_stream_default_flags);
    return own;
}

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t description;
static int describe(description *d, int64_t rows, int64_t cols, dnnl_data_type_t type, int64_t row_stride, int64_t col_stride) {
    dnnl_dims_t dims = {rows, cols}, strides = {row_stride, col_stride};
    return lib.dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides) == dnnl_success;
}
static int memory(dnnl_memory_t *m, description *d) {
    return lib.dnnl_memory_create(m, *d, engine, DNNL_MEMORY_NONE) == dnnl_success;
}
static int plan(dnnl_primitive_desc_t *p, description *a, description *b, description *c, dnnl_primitive_attr_t attr) {
    return lib.dnnl_matmul_primitive_desc_create(p, engine, *a, *b, NULL, *c, attr) == dnnl_success;
}
static void forget(description *d) { lib.dnnl_memory_desc_destroy(*d); }
static int append_sum(dnnl_post_ops_t ops) {
    return lib.dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef) == dnnl_success;
}
#else
typedef dnnl_memory_desc_t description;
static int describe(description *d, int64_t rows, int64_t cols, dnnl_data_type_t type, int64_t row_stride, int64_t col_stride) {
    dnnl_dims_t dims = {rows, cols}, strides = {row_stride, col_stride};
    return lib.dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides) == dnnl_success;
}
static int memory(dnnl_memory_t *m, description *d) {
    return lib.dnnl_memory_create(m, d, engine, DNNL_MEMORY_NONE) == dnnl_success;
}
static int plan(dnnl_primitive_desc_t *p, description *a, description *b, description *c, dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t desc;
    return lib.dnnl_matmul_desc_init(&desc, a, b, NULL, c) == dnnl_success &&
           lib.dnnl_primitive_desc_create(p, &desc, attr, engine, NULL) == dnnl_success;
}
static void forget(description *d) { (void)d; }
static int append_sum(dnnl_post_ops_t ops) { return lib.dnnl_post_ops_append_sum(ops, 1.0f) == dnnl_success; }
#endif

/* Whether this processor multiplies bf16 in hardware: 2 with tiles (AMX), 1 with AVX512-BF16, 0 without. */
int honed_bf16_level(void) {
    if (!honed_onednn_is_here()) return 0;
    unsigned isa = (unsigned)lib.dnnl_get_effective_cpu_isa();
    return isa >= dnnl_cpu_isa_avx512_core_amx ? 2 : isa >= dnnl_cpu_isa_avx512_core_bf16 ? 1 : 0;
}

void honed_product_destroy(struct honed_product *p) {
    if (!p) return;
    if (p->a) lib.dnnl_memory_destroy(p->a);
    if (p->b) lib.dnnl_memory_destroy(p->b);
    if (p->c) lib.dnnl_memory_destroy(p->c);
    if (p->primitive) lib.dnnl_primitive_destroy(p->primitive);
    free(p);
}

/* c[m,n] (+)= a[m,k] · b[k,n]: c in f32 with rows `c_stride` apart, a and b in f32 or bf16 with any strides. NULL when
 * oneDNN has no such product. */
struct honed_product *honed_product_create(int64_t m, int64_t n, int64_t k, const int64_t a_strides[2],
                                           const int64_t b_strides[2], int64_t c_stride, int is_bf16, int accumulates) {
    dnnl_data_type_t type = is_bf16 ? dnnl_bf16 : dnnl_f32;
    description a, b, c;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t chosen = NULL;
    struct honed_product *p = calloc(1, sizeof *p);
    if (!p || !honed_onednn_is_here()) { free(p); return NULL; }
    lib.omp_set_num_threads(1);
    int ok = describe(&a, m, k, type, a_strides[0], a_strides[1]);
    ok = ok && describe(&b, k, n, type, b_strides[0], b_strides[1]) && describe(&c, m, n, dnnl_f32, c_stride, 1);
    if (!ok) { free(p); return NULL; }
    ok = lib.dnnl_primitive_attr_create(&attr) == dnnl_success;
    if (ok && accumulates) {
        ok = lib.dnnl_post_ops_create(&ops) == dnnl_success && append_sum(ops) &&
             lib.dnnl_primitive_attr_set_post_ops(attr, ops) == dnnl_success;
    }
    ok = ok && plan(&chosen, &a, &b, &c, attr) && lib.dnnl_primitive_create(&p->primitive, chosen) == dnnl_success;
    ok = ok && memory(&p->a, &a) && memory(&p->b, &b) && memory(&p->c, &c);
    if (chosen) lib.dnnl_primitive_desc_destroy(chosen);
    if (ops) lib.dnnl_post_ops_destroy(ops);
    if (attr) lib.dnnl_primitive_attr_destroy(attr);
    forget(&a); forget(&b); forget(&c);
    if (!ok) { honed_product_destroy(p); return NULL; }
    return p;
}

/* Runs a product of the calling thread on these buffers; 1 when it did. */
int honed_product_run(struct honed_product *p, void *a, void *b, void *c) {
    lib.omp_set_num_threads(1);
    if (lib.dnnl_memory_set_data_handle(p->a, a) != dnnl_success || lib.dnnl_memory_set_data_handle(p->b, b) != dnnl_success ||
        lib.dnnl_memory_set_data_handle(p->c, c) != dnnl_success)
        return 0;
    dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}};
    return stream() && lib.dnnl_primitive_execute(p->primitive, stream(), 3, args) == dnnl_success &&
           lib.dnnl_stream_wait(stream()) == dnnl_success;
}
