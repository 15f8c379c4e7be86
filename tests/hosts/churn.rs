//! The churn at a size for every day; `cargo xtask churn` has any.

use std::process::Command;

use clb_tests::binary;

#[test]
fn no_connection_breaks_whatever_changes() {
    let churn = Command::new(env!("CARGO_BIN_EXE_clb-churn"))
        .args(["--seed", "3", "--changes", "40", "--connections", "200"])
        .env("CLB_BINARY", binary().unwrap())
        .output()
        .unwrap();
    let (printed, said) = (String::from_utf8_lossy(&churn.stdout), String::from_utf8_lossy(&churn.stderr));
    println!("{printed}");
    assert!(churn.status.success(), "{printed}\n{said}");
}
