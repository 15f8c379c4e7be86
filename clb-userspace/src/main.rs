//! The binary `clb`.

use std::process::ExitCode;

fn main() -> ExitCode {
    clb_userspace::cli::main()
}
