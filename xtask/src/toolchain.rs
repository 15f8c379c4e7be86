//! The toolchain of the XDP program: a rustc that may use `-Z build-std=core`, with the sources of `core`.
//!
//! Two kinds will do: Debian's packages, and one of rustup (a nightly). Both are called by explicit paths with a cleaned
//! environment: we run under rustup's cargo, whose variables and PATH would otherwise lead back to the host's toolchain.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::version::Version;
use crate::workspace::{answer, remove_variables};

/// A toolchain that can build the XDP program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    Debian,
    Rustup(String),
}

impl Toolchain {
    /// Its cargo, allowed the one unstable option that the BPF target needs.
    pub fn cargo(&self) -> Command {
        match self {
            Self::Debian => debian_command(DEBIAN_CARGO),
            Self::Rustup(name) => rustup_command(name, "cargo"),
        }
    }

    /// Its `cargo clippy`. Debian's is called by its own name, as cargo would find rustup's on PATH first.
    pub fn clippy(&self) -> Command {
        let (mut command, subcommand) = match self {
            Self::Debian => (debian_command(DEBIAN_CLIPPY), "clippy"),
            Self::Rustup(_) => (self.cargo(), "clippy"),
        };
        command.arg(subcommand);
        command
    }

    pub fn describe(&self) -> String {
        match self {
            Self::Debian => "Debian's".to_owned(),
            Self::Rustup(name) => format!("rustup's {name}"),
        }
    }
}

/// What `rustc -vV` says of a compiler, as far as it decides something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiler {
    pub release: Version,
    /// The major version of its LLVM: bpf-linker must read the bitcode that it writes.
    pub llvm: u32,
}

impl Compiler {
    fn parse(verbose_version: &str) -> Option<Self> {
        let value = |key| verbose_version.lines().find_map(|line| line.strip_prefix(key));
        Some(Self {
            release: Version::at_start_of(value("release: ")?)?,
            llvm: Version::at_start_of(value("LLVM version: ")?)?.major,
        })
    }
}

/// A toolchain as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    pub compiler: Compiler,
    pub source: Presence,
    pub clippy: Presence,
}

impl Installed {
    pub fn is_usable(&self) -> bool {
        self.compiler.release >= oldest() && self.source == Presence::Here
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Here,
    Absent,
}

impl Presence {
    fn of(path: impl AsRef<Path>) -> Self {
        if path.as_ref().exists() { Self::Here } else { Self::Absent }
    }
}

/// Which toolchain the user wants: the value of [`VARIABLE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Either,
    Debian,
    Rustup(String),
}

impl Asked {
    pub fn from_environment() -> Self {
        Self::parse(env::var(VARIABLE).ok().as_deref())
    }

    fn parse(value: Option<&str>) -> Self {
        match value {
            None | Some("") => Self::Either,
            Some("debian") => Self::Debian,
            Some(name) => Self::Rustup(name.to_owned()),
        }
    }

    /// The toolchain of rustup that would do.
    pub fn rustup_name(&self) -> &str {
        match self {
            Self::Rustup(name) => name,
            Self::Either | Self::Debian => "nightly",
        }
    }
}

/// The variable that overrides the choice: `debian`, `nightly`, or the name of another toolchain of rustup.
pub const VARIABLE: &str = "CLB_EBPF_TOOLCHAIN";

/// The oldest compiler that the workspace builds with.
pub fn oldest() -> Version {
    Version::at_start_of(env!("CARGO_PKG_RUST_VERSION")).expect("cargo checks rust-version")
}

/// The toolchain that will be used, if one of those found can be: Debian's first, as its parts are made to match.
pub fn choose(asked: &Asked, debian: Option<Installed>, rustup: Option<Installed>) -> Option<(Toolchain, Installed)> {
    let usable = |found: Option<Installed>, toolchain| Some((toolchain, found.filter(Installed::is_usable)?));
    let debian = usable(debian, Toolchain::Debian).filter(|_| !matches!(asked, Asked::Rustup(_)));
    let rustup = usable(rustup, Toolchain::Rustup(asked.rustup_name().to_owned()));
    debian.or(rustup.filter(|_| *asked != Asked::Debian))
}

/// Debian's toolchain, as far as it is here.
pub fn find_debian() -> Option<Installed> {
    answer(debian_command(DEBIAN_CARGO).arg("--version"))?;
    Some(Installed {
        compiler: Compiler::parse(&answer(debian_command(DEBIAN_RUSTC).arg("-vV"))?)?,
        source: Presence::of(Path::new("/usr/lib").join(CORE_SOURCE)),
        clippy: match Presence::of(DEBIAN_CLIPPY) {
            Presence::Here => Presence::of("/usr/bin/clippy-driver"),
            Presence::Absent => Presence::Absent,
        },
    })
}

/// The toolchain `name` of rustup, as far as it is here.
pub fn find_rustup(name: &str) -> Option<Installed> {
    let compiler = Compiler::parse(&answer(rustup_command(name, "rustc").arg("-vV"))?)?;
    let root = answer(rustup_command(name, "rustc").args(["--print", "sysroot"]))?;
    let root = Path::new(root.trim_end());
    Some(Installed {
        compiler,
        source: Presence::of(root.join("lib").join(CORE_SOURCE)),
        clippy: Presence::of(root.join("bin/clippy-driver")),
    })
}

fn debian_command(program: &str) -> Command {
    let mut command = clean_command(program);
    command.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC);
    command
}

fn rustup_command(toolchain: &str, program: &str) -> Command {
    let mut command = clean_command("rustup");
    command.args(["run", toolchain, program]);
    command
}

fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    remove_variables(&mut command, &FOREIGN);
    // Only looks may find nothing: rustup must not download a toolchain because it was asked for its version.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// Beginnings of variables that name another toolchain or its flags, or that `cargo run` set for us.
const FOREIGN: [&str; 13] = [
    "CARGO_BUILD_RUST",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_TARGET_",
    "CLIPPY_",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const CORE_SOURCE: &str = "rustlib/src/rust/library/core/src/lib.rs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_known_by_its_release_and_its_llvm() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                      host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let nightly = "rustc 1.99.0-nightly\nrelease: 1.99.0-nightly\nLLVM version: 23.0.0\n";
        let cases = [
            ("Debian's", debian, Some((1, 96, 22))),
            ("a nightly", nightly, Some((1, 99, 23))),
            ("one without LLVM", "release: 1.96.0\n", None),
            ("not a compiler", "gcc (Debian 12.2.0-14) 12.2.0", None),
        ];
        for (name, text, expected) in cases {
            let found = Compiler::parse(text).map(|Compiler { release, llvm }| (release.major, release.minor, llvm));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn the_choice_follows_the_wish_and_what_is_usable() {
        let with = |minor, source| {
            let compiler = Compiler { release: Version { major: 1, minor }, llvm: 22 };
            Some(Installed { compiler, source, clippy: Presence::Absent })
        };
        let (good, old) = (with(99, Presence::Here), with(63, Presence::Here));
        let without_source = with(99, Presence::Absent);
        let nightly = || Some(Toolchain::Rustup("nightly".to_owned()));
        let mine = || Asked::Rustup("mine".to_owned());

        let cases = [
            ("nothing is here", Asked::Either, None, None, None),
            ("both are here", Asked::Either, good, good, Some(Toolchain::Debian)),
            ("Debian's is too old", Asked::Either, old, good, nightly()),
            ("Debian's has no sources", Asked::Either, without_source, good, nightly()),
            ("rustup's has no sources", Asked::Either, None, without_source, None),
            ("Debian's was asked for and is too old", Asked::Debian, old, good, None),
            ("another was asked for", mine(), good, good, Some(Toolchain::Rustup("mine".to_owned()))),
            ("another was asked for and has no sources", mine(), good, without_source, None),
        ];
        for (name, asked, debian, rustup, expected) in cases {
            let chosen = choose(&asked, debian, rustup).map(|(toolchain, _)| toolchain);
            assert_eq!(chosen, expected, "{name}");
        }
    }

    #[test]
    fn the_variable_names_a_toolchain() {
        let cases = [
            (None, Asked::Either),
            (Some(""), Asked::Either),
            (Some("debian"), Asked::Debian),
            (Some("nightly-2026-05-19"), Asked::Rustup("nightly-2026-05-19".to_owned())),
        ];
        for (value, expected) in cases {
            assert_eq!(Asked::parse(value), expected, "{value:?}");
        }
    }
}
