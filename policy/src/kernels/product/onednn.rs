//! oneDNN's product through the bridge in `native/onednn.c`.
//!
//! oneDNN compiles code for every shape it meets; a thread keeps what it has made, up to a bound, for ragged batches bring
//! ever new numbers of rows.

use std::{cell::RefCell, collections::HashMap, ffi::c_void, sync::OnceLock};

use super::{Factor, Pointer, Target};

unsafe extern "C" {
    fn honed_onednn_is_here() -> i32;
    fn honed_bf16_level() -> i32;
    fn honed_product_create(
        m: i64,
        n: i64,
        k: i64,
        a_strides: *const i64,
        b_strides: *const i64,
        c_stride: i64,
        is_bf16: i32,
        accumulates: i32,
    ) -> *mut c_void;
    fn honed_product_destroy(product: *mut c_void);
    fn honed_product_run(product: *mut c_void, a: *const c_void, b: *const c_void, c: *mut c_void) -> i32;
}

/// Products that one thread keeps; when there are more, it begins anew.
const KEPT_MAX: usize = 512;

/// Whether the library could be opened.
pub(super) fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    // SAFETY: no arguments; the bridge guards its own state.
    *HERE.get_or_init(|| unsafe { honed_onednn_is_here() } == 1)
}

/// 2 with AMX, 1 with AVX512-BF16, 0 without.
pub(super) fn bf16_level() -> u32 {
    static LEVEL: OnceLock<u32> = OnceLock::new();
    // SAFETY: no arguments; the bridge guards its own state.
    *LEVEL.get_or_init(|| unsafe { honed_bf16_level() }.unsigned_abs())
}

/// m, n, k, strides of the left and of the right factor, stride of the result, bf16, accumulates.
type Key = [i64; 10];

/// A product of the bridge, owned by one thread.
struct Product(*mut c_void);

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made by `honed_product_create` and destroyed once.
        unsafe { honed_product_destroy(self.0) };
    }
}

thread_local! {
    static PRODUCTS: RefCell<HashMap<Key, Product>> = RefCell::new(HashMap::new());
}

/// out (+)= a·b on this thread; false when oneDNN is not there or has no such product.
pub(super) fn run(a: Factor, b: Factor, out: Target, accumulates: bool) -> bool {
    let (left, right, is_bf16): (*const c_void, *const c_void, bool) = match (a.start, b.start) {
        (Pointer::F32(a), Pointer::F32(b)) => (a.cast(), b.cast(), false),
        (Pointer::Bf16(a), Pointer::Bf16(b)) => (a.cast(), b.cast(), true),
        _ => unreachable!("both factors of a product have one precision"),
    };
    if !is_here() {
        return false;
    }
    let sides = [a.rows, b.cols, a.cols, a.row_stride, a.col_stride, b.row_stride, b.col_stride, out.row_stride];
    let mut key: Key = [0; 10];
    key.iter_mut().zip(sides).for_each(|(k, side)| *k = side as i64);
    (key[8], key[9]) = (i64::from(is_bf16), i64::from(accumulates));
    PRODUCTS.with_borrow_mut(|products| {
        if products.len() >= KEPT_MAX && !products.contains_key(&key) {
            products.clear();
        }
        let product = products.entry(key).or_insert_with(|| Product(create(&key)));
        // SAFETY: the product was made for exactly these sides and strides, which `Factor` and `Target` keep inside
        // borrowed memory; oneDNN reads a and b and writes c.
        !product.0.is_null() && unsafe { honed_product_run(product.0, left, right, out.start.cast()) } == 1
    })
}

fn create(key: &Key) -> *mut c_void {
    let [m, n, k, a_row, a_col, b_row, b_col, c_row, is_bf16, accumulates] = *key;
    let (a, b) = ([a_row, a_col], [b_row, b_col]);
    // SAFETY: plain numbers and two arrays that outlive the call.
    unsafe { honed_product_create(m, n, k, a.as_ptr(), b.as_ptr(), c_row, is_bf16 as i32, accumulates as i32) }
}
