//! What computes an update, as a text for its record.
//!
//! The same update gives the same bits on the same arithmetic only: another type, another library of matrix products, or the
//! same library on a processor with wider vectors adds in another order. Threads do not change a bit (a test holds that),
//! and are recorded all the same.

use policy::kernels;

/// Counts changes of what an update computes, or of what its numbers mean, within one version of honed.
const REVISION: u32 = 5;

/// Device, matrix products, what bf16 the processor has (which decides what `dtype = "auto"` means), its vectors, and the
/// honed that computes, to its revision. The type itself is part of the configuration, which is recorded beside this.
#[must_use]
pub fn arithmetic(config: &config::Ppo) -> String {
    let (products, bf16, vectors) = (kernels::backend(), kernels::bf16_level(), vectors());
    let version = env!("CARGO_PKG_VERSION");
    format!("{} {products} bf16:{bf16} {vectors} honed {version} revision {REVISION}", config.device)
}

/// The vector extensions that the matrix products choose by.
#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    match () {
        () if is_x86_feature_detected!("avx512f") => "avx512",
        () if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => "avx2",
        () => "sse2",
    }
}

/// The vector extensions that the matrix products choose by.
#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    std::env::consts::ARCH
}
