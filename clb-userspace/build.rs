//! Finds the XDP program that goes into the binary. `cargo xtask build` makes it first, with a toolchain of its own.

use std::{env, path::PathBuf, process::exit};

fn main() {
    println!("cargo:rerun-if-env-changed=CLB_EBPF_DIR");
    let folder = env::var_os("CLB_EBPF_DIR").map_or_else(
        || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../target/ebpf"),
        PathBuf::from,
    );
    let object = folder.join("clb");
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo:rustc-env=CLB_EBPF_OBJECT={}", object.display()),
        Err(error) => {
            println!("cargo:error=the XDP program is not there: {}: {error}", object.display());
            println!("cargo:error=help: build it with `cargo xtask build`");
            exit(1);
        }
    }
}
