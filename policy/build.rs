//! Compiles the bridge to oneDNN where its headers are installed (Debian: `libdnnl-dev`); without them the trainer uses the
//! product that candle uses. The library itself is opened at run time.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rustc-check-cfg=cfg(onednn)");
    println!("cargo:rerun-if-changed=native/onednn.c");
    println!("cargo:rerun-if-env-changed=DNNLROOT");
    let root = env::var_os("DNNLROOT").map(|root| PathBuf::from(root).join("include"));
    let folders = root.into_iter().chain(["/usr/local/include", "/usr/include"].map(PathBuf::from));
    let found = folders.into_iter().find(|folder| folder.join("dnnl.h").is_file());
    println!("cargo:rerun-if-changed=/usr/include/dnnl.h");
    let Some(folder) = found.filter(|_| env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux")) else {
        println!("cargo:warning=oneDNN's headers are not installed: training uses a slower matrix product");
        return;
    };
    cc::Build::new().file("native/onednn.c").include(folder).opt_level(2).warnings(true).compile("honed_onednn");
    println!("cargo:rustc-link-lib=dl");
    println!("cargo:rustc-cfg=onednn");
}
