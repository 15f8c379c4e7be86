//! The binary under test, as a user has it.

use std::{env, path::PathBuf};

use clb_tests::repository;

/// The agent's binary: `CLB_BINARY`, or where `cargo xtask build` puts it.
pub fn clb() -> PathBuf {
    let path = env::var_os("CLB_BINARY").map_or_else(|| repository().join("target/release/clb"), PathBuf::from);
    assert!(path.exists(), "there is no {}\nhelp: build it with `cargo xtask build`", path.display());
    path
}
