//! Finds the XDP programs that go into the binary. `cargo xtask build` makes them first, with a toolchain of its own.

use std::{env, path::PathBuf, process::exit};

fn main() {
    println!("cargo:rerun-if-env-changed=CLB_EBPF_DIR");
    let folder = env::var_os("CLB_EBPF_DIR").map_or_else(
        || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../target/ebpf"),
        PathBuf::from,
    );
    for (program, variable) in
        [("clb", "CLB_EBPF_OBJECT"), ("decap", "CLB_EBPF_DECAP_OBJECT"), ("bare", "CLB_EBPF_BARE_OBJECT")]
    {
        let object = folder.join(program);
        println!("cargo:rerun-if-changed={}", object.display());
        match object.canonicalize() {
            Ok(object) => println!("cargo:rustc-env={variable}={}", object.display()),
            Err(error) => {
                println!("cargo:error=an XDP program is not there: {}: {error}", object.display());
                println!("cargo:error=help: build it with `cargo xtask build`");
                exit(1);
            }
        }
    }
}
