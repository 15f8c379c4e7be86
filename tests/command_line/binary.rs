//! The binary under test, as a user has it. The lab knows where it is; a test cannot go on without it.

use std::path::PathBuf;

pub fn clb() -> PathBuf {
    clb_tests::binary().unwrap()
}
