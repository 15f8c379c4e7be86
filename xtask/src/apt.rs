//! What apt knows and has installed, as plain data.
//!
//! Debian has the compiler in two families of packages: `rustc-web` follows what browsers need and is new also in old
//! releases; plain `rustc` is as old as the release. Either will do when it is new enough.

use std::collections::BTreeMap;
use std::process::Command;

use crate::machine::{PEER_PROGRAMS, PROGRAMS, VM_PROGRAMS};
use crate::toolchain::oldest;
use crate::version::{Version, leading_number};
use crate::workspace::answer;

/// apt's knowledge of the packages that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apt {
    packages: BTreeMap<String, Package>,
    /// The major version of the LLVM that the compiler of [`Apt::family`] was built with.
    pub compiler_llvm: Option<u32>,
    pub lists: Lists,
}

/// How far apt's package lists can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    AsFound,
    Refreshed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Package {
    installed: Option<String>,
    candidate: Option<String>,
}

/// The packages of one toolchain.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub compiler: &'static str,
    pub cargo: &'static str,
    pub source: &'static str,
    pub clippy: &'static str,
    pub rustfmt: &'static str,
}

impl Apt {
    /// Asks apt, if there is one.
    pub fn find(lists: Lists) -> Option<Self> {
        which::which("apt-get").ok()?;
        let llvms = crate::linker::LLVMS.map(llvm_package);
        let families = FAMILIES.iter().flat_map(|family| {
            let Family { compiler, cargo, source, clippy, rustfmt } = *family;
            [compiler, cargo, source, clippy, rustfmt]
        });
        let others = PROGRAMS.iter().chain(&VM_PROGRAMS).chain(&PEER_PROGRAMS).map(|program| program.package);
        let policy = answer(apt_cache().arg("policy").args(llvms).args(families).args(others))
            .map(|text| parse_policy(&text))?;

        let mut apt = Self { packages: policy, compiler_llvm: None, lists };
        if let Some(family) = apt.family() {
            let dependencies = answer(apt_cache().args(["depends", "--recurse", "--important", family.compiler]));
            apt.compiler_llvm = dependencies.and_then(|text| parse_llvm(&text));
        }
        Some(apt)
    }

    /// The family whose compiler is new enough, or, while the lists may be missing, the one that will likely have it.
    pub fn family(&self) -> Option<&'static Family> {
        let suits = |version: Option<&String>| {
            version.and_then(|version| Version::at_start_of(version)).is_some_and(|version| version >= oldest())
        };
        let by = |version: fn(&Package) -> Option<&String>| {
            FAMILIES.iter().find(|family| suits(self.packages.get(family.compiler).and_then(version)))
        };
        by(|package| package.installed.as_ref()).or_else(|| by(|package| package.candidate.as_ref())).or_else(|| {
            let first = FAMILIES.first().filter(|family| !self.packages.contains_key(family.compiler));
            first.filter(|_| self.lists == Lists::AsFound)
        })
    }

    /// Whether `package` could be installed as far as the lists tell.
    pub fn offers(&self, package: &str) -> bool {
        self.packages.get(package).is_some_and(|package| package.candidate.is_some())
    }

    pub fn has_installed(&self, package: &str) -> bool {
        self.packages.get(package).is_some_and(|package| package.installed.is_some())
    }
}

/// The package with what bpf-linker is built from.
pub fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

/// `apt-get` that asks no questions.
pub fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// The arguments before the packages of `apt-get install`.
pub const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

fn apt_cache() -> Command {
    let mut command = Command::new("apt-cache");
    command.env("LC_ALL", "C");
    command
}

/// The answer of `apt-cache policy NAME…`: a block for each package that is known.
fn parse_policy(text: &str) -> BTreeMap<String, Package> {
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            current = Some(packages.entry(name.to_owned()).or_default());
        } else if let (Some(package), Some((key, value))) = (&mut current, line.trim_start().split_once(": ")) {
            let version = (value != "(none)").then(|| value.to_owned());
            match key {
                "Installed" => package.installed = version,
                "Candidate" => package.candidate = version,
                _ => {}
            }
        }
    }
    packages
}

/// The LLVM library among all that a compiler's package depends on.
fn parse_llvm(depends: &str) -> Option<u32> {
    let mut libraries = depends.lines().filter_map(|line| line.strip_prefix("libllvm"));
    libraries.find_map(|rest| Some(leading_number(rest)?.0))
}

/// In the order of preference.
const FAMILIES: [Family; 2] = [
    Family {
        compiler: "rustc-web",
        cargo: "cargo-web",
        source: "rust-web-src",
        clippy: "rust-web-clippy",
        rustfmt: "rustfmt-web",
    },
    Family { compiler: "rustc", cargo: "cargo", source: "rust-src", clippy: "rust-clippy", rustfmt: "rustfmt" },
];

/// For the tests of what is planned with it.
#[cfg(test)]
impl Apt {
    /// An apt that says of each package what is installed and what could be.
    pub fn with(lists: Lists, compiler_llvm: Option<u32>, packages: &[(&str, Option<&str>, Option<&str>)]) -> Self {
        let package = |installed: Option<&str>, candidate: Option<&str>| Package {
            installed: installed.map(str::to_owned),
            candidate: candidate.map(str::to_owned),
        };
        let packages =
            packages.iter().map(|&(name, installed, candidate)| (name.to_owned(), package(installed, candidate)));
        Self { packages: packages.collect(), compiler_llvm, lists }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_tells_what_is_installed_and_what_could_be() {
        let text = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n     \
                    1.96.0+dfsg1-1~deb12u2 500\n        500 http://deb.debian.org/debian bookworm/main amd64 Packages\n\
                    ethtool:\n  Installed: 1:6.1-1\n  Candidate: 1:6.1-1\n";
        let expected = Apt::with(
            Lists::AsFound,
            None,
            &[("rustc-web", None, Some("1.96.0+dfsg1-1~deb12u2")), ("ethtool", Some("1:6.1-1"), Some("1:6.1-1"))],
        );
        assert_eq!(parse_policy(text), expected.packages);
    }

    #[test]
    fn the_compilers_llvm_is_found_among_its_dependencies() {
        let text = "rustc-web\n  Depends: libstd-rust-web-dev\nlibstd-rust-web-1.96\n  Depends: libllvm22\nlibllvm22\n";
        assert_eq!(parse_llvm(text), Some(22));
        assert_eq!(parse_llvm("rustc\n  Depends: libc6\nlibc6\n"), None);
    }

    #[test]
    fn the_family_is_one_whose_compiler_is_new_enough() {
        let (old, new) = (Some("1.63.0+dfsg1-2"), Some("1.99.0+dfsg1-1"));
        let cases: [(&str, Lists, &[_], Option<&str>); 6] = [
            ("new web packages", Lists::AsFound, &[("rustc-web", None, new), ("rustc", None, old)], Some("rustc-web")),
            ("a new release", Lists::AsFound, &[("rustc-web", None, old), ("rustc", None, new)], Some("rustc")),
            ("the installed one", Lists::AsFound, &[("rustc-web", None, new), ("rustc", new, new)], Some("rustc")),
            ("both are old", Lists::AsFound, &[("rustc-web", None, old), ("rustc", None, old)], None),
            ("the lists are missing", Lists::AsFound, &[], Some("rustc-web")),
            ("there are none", Lists::Refreshed, &[], None),
        ];
        for (name, lists, packages, expected) in cases {
            let family = Apt::with(lists, None, packages).family();
            assert_eq!(family.map(|family| family.compiler), expected, "{name}");
        }
    }
}
