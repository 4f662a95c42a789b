//! Compiles what is not Rust: the bridge to oneDNN where its headers are installed (Debian: `libdnnl-dev`; without them the
//! trainer uses the product that candle uses, and the library itself is opened at run time), the emulation of the CUDA kernels
//! that tests run, and for the feature `cuda-trainer` the CUDA kernels themselves.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    onednn();
    emulation();
    println!("cargo:rerun-if-changed=native");
    if env::var_os("CARGO_FEATURE_CUDA_TRAINER").is_some() {
        kernels();
    }
}

fn onednn() {
    println!("cargo:rustc-check-cfg=cfg(onednn)");
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

/// Only tests call it, so linkers leave it out of everything else; a build script does not know for whom it builds.
fn emulation() {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("native/emulation/emulation.cpp").define("HONED_EMULATION", None);
    build.flag("-Wno-unknown-pragmas").opt_level(2).warnings(true).compile("honed_emulation");
}

/// A fat binary: machine code for one GPU (`CUDA_COMPUTE_CAP`, by default 90: Hopper), and for every other from compute
/// capability 8.0 on a text that its driver compiles when the kernels are first loaded.
fn kernels() {
    for name in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "90".to_owned()).replace('.', "");
    let number: u32 = capability
        .parse()
        .unwrap_or_else(|_| panic!("CUDA_COMPUTE_CAP: expected a number such as 90, got {capability}"));
    assert!(number >= 80, "CUDA_COMPUTE_CAP: the kernels need 80 or more, got {capability}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.fatbin");
    let mut command = Command::new(nvcc());
    command.args(["-fatbin", "-O3", "--std=c++17"]);
    command.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
    command.arg("-gencode=arch=compute_80,code=compute_80");
    let done = command.arg("native/cuda/kernels.cu").arg("-o").arg(&out).status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("nvcc could not compile native/cuda/kernels.cu: {status}"),
        Err(error) => {
            panic!("the feature `cuda-trainer` needs nvcc of CUDA 12 or 13, on PATH or under CUDA_HOME: {error}")
        }
    }
}

fn nvcc() -> PathBuf {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let candidates =
        homes.map(|home| Path::new(&home).join("bin/nvcc")).chain([PathBuf::from("/usr/local/cuda/bin/nvcc")]);
    candidates.into_iter().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("nvcc"))
}
