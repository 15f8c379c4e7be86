//! bpf-linker: it makes one BPF object of the bitcode that rustc writes, so its LLVM must be at least the compiler's.
//!
//! The project builds its own where none on PATH will do, into `.tools/llvm-NN`: the folder's name remembers which LLVM
//! it was built for. A linker counts as found only if it starts, as its LLVM may have been removed since.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::version::{Version, leading_number};
use crate::workspace::{Workspace, answer};

/// A bpf-linker that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    pub version: Version,
    pub llvm: u32,
}

/// The version that the project builds.
pub const VERSION: &str = "0.13.0";

/// The LLVMs that this version can be built for.
pub const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Of `linkers`, the one for a compiler with this LLVM: new enough, and the nearest LLVM, as that one is tested most.
pub fn choose(linkers: &[Linker], llvm: u32) -> Option<&Linker> {
    let oldest = Version::at_start_of(VERSION).expect("VERSION is one");
    linkers.iter().filter(|linker| linker.version >= oldest && linker.llvm >= llvm).min_by_key(|linker| linker.llvm)
}

/// Every bpf-linker on this machine whose LLVM is known, the project's own first.
pub fn find(workspace: &Workspace) -> Vec<Linker> {
    let own = LLVMS.map(|llvm| (folder(workspace, llvm).join("bin/bpf-linker"), Some(llvm)));
    let on_path = which::which("bpf-linker").ok().map(|path| {
        let llvm = fs::read(&path).ok().and_then(|program| llvm_named_in(&program));
        (path, llvm)
    });
    own.chain(on_path)
        .filter_map(|(path, llvm)| {
            let version = answer(Command::new(&path).arg("--version"))?;
            let version = Version::at_start_of(version.strip_prefix("bpf-linker ")?)?;
            Some(Linker { path, version, llvm: llvm? })
        })
        .collect()
}

/// The command that builds the project's own.
pub fn install(workspace: &Workspace, llvm: u32, prefix: &Path) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--version", VERSION, "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(folder(workspace, llvm))
        .env("LLVM_PREFIX", prefix)
        // Its own build belongs neither into our target folder nor under flags meant for our programs.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    command
}

/// An LLVM with what programs that use it are built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Llvm {
    pub major: u32,
    pub prefix: PathBuf,
}

/// The LLVMs that bpf-linker can be built against here: the one that `LLVM_PREFIX` names, Debian's, the system's.
pub fn find_llvms() -> Vec<Llvm> {
    let named = std::env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let debian = LLVMS.map(|major| PathBuf::from(format!("/usr/lib/llvm-{major}")));
    named
        .into_iter()
        .chain(debian)
        .chain([PathBuf::from("/usr")])
        .filter(|prefix| prefix.join("lib/libLLVM.so").exists())
        .filter_map(|prefix| {
            let version = answer(Command::new(prefix.join("bin/llvm-config")).arg("--version"))?;
            Some(Llvm { major: Version::at_start_of(&version)?.major, prefix })
        })
        .collect()
}

fn folder(workspace: &Workspace, llvm: u32) -> PathBuf {
    workspace.tools().join(format!("llvm-{llvm}"))
}

/// The LLVM that a program uses: it names the shared library (`libLLVM.so.22.1`), or has LLVM inside, which signs the
/// bitcode it writes (`LLVM22.1.8`).
fn llvm_named_in(program: &[u8]) -> Option<u32> {
    program
        .windows(4)
        .enumerate()
        .filter(|(_, window)| window == b"LLVM")
        .filter_map(|(start, _)| {
            let end = program.len().min(start + 16);
            let text = program[start + 4..end].utf8_chunks().next()?.valid();
            let (major, rest) = leading_number(text.strip_prefix(".so.").unwrap_or(text))?;
            rest.starts_with('.').then_some(major)
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_program_is_read_from_its_bytes() {
        let cases: [(&str, &[u8], Option<u32>); 5] = [
            ("a shared LLVM", b"\x7fELF\0libLLVM.so.22.1\0libc.so.6\0", Some(22)),
            ("LLVM inside", b"\xff\xfeLLVM23.1.0\0\xff", Some(23)),
            ("a help text", b"\0LLVM 22 builds also support\0", None),
            ("the end of the file", b"LLVM", None),
            ("a script", b"#!/bin/sh\nexec bpf-linker\n", None),
        ];
        for (name, program, expected) in cases {
            assert_eq!(llvm_named_in(program), expected, "{name}");
        }
    }

    #[test]
    fn the_nearest_llvm_that_can_read_the_bitcode_is_taken() {
        let linker = |minor, llvm| Linker { path: PathBuf::new(), version: Version { major: 0, minor }, llvm };
        let cases = [
            ("none is here", vec![], None),
            ("its LLVM is too old", vec![linker(13, 21)], None),
            ("it is too old itself", vec![linker(9, 22)], None),
            ("a newer LLVM will do", vec![linker(13, 23)], Some(23)),
            ("the nearest is best", vec![linker(13, 23), linker(13, 22)], Some(22)),
        ];
        for (name, linkers, expected) in cases {
            assert_eq!(choose(&linkers, 22).map(|linker| linker.llvm), expected, "{name}");
        }
    }
}
