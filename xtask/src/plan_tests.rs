//! What is planned on machines of several kinds: each case is a machine, and the commands a person would run on it.

use std::path::PathBuf;

use super::*;
use crate::linker::Llvm;
use crate::machine::{PEER_PROGRAMS, PROGRAMS, VM_PROGRAMS};
use crate::toolchain::Installed;
use crate::version::Version;

struct Case {
    name: &'static str,
    machine: Machine,
    purpose: Purpose,
    privilege: Privilege,
    sources: Sources,
    things: &'static [&'static str],
    commands: &'static str,
}

#[test]
fn a_plan_names_what_is_missing_and_the_commands_for_it() {
    for case in with_apt().into_iter().chain(without_apt()) {
        let Case { name, machine, purpose, privilege, sources, things, commands: expected } = case;
        let items = plan(&machine, purpose, &sources);
        let found: Vec<_> = items.iter().map(|item| item.thing.as_str()).collect();
        assert_eq!(found, things, "{name}");
        assert_eq!(commands(&items, privilege), expected, "{name}");
        assert_eq!(complete(&machine, purpose).is_some(), items.is_empty(), "{name}: complete means an empty plan");
    }
}

#[test]
fn a_person_is_needed_only_for_what_xtask_may_not_or_cannot_do() {
    let item = |how| vec![Item { thing: String::new(), why: "", how }];
    let packages = item(How::Packages(vec!["ethtool".to_owned()]));
    let linker = item(How::BuildLinker { llvm: 22 });
    assert!(needs_a_person(&packages, Privilege::User));
    assert!(!needs_a_person(&packages, Privilege::Root));
    assert!(!needs_a_person(&linker, Privilege::User));
    assert!(needs_a_person(&item(How::ByHand(String::new())), Privilege::Root));
}

#[test]
fn new_lists_are_fetched_once_and_only_for_packages_that_are_unknown() {
    let missing = machine(None, None, vec![], vec![]);
    for (name, apt, expected) in [
        ("every package is known", debian(Lists::AsFound), false),
        ("the lists are missing", Apt::with(Lists::AsFound, None, &[]), true),
        ("even new lists do not know them", Apt::with(Lists::Refreshed, None, &[]), false),
        ("the lists are those of an installer, and rustup could help out", with_old_compiler(Lists::AsFound), true),
        ("the release has only an old compiler, and rustup must help out", with_old_compiler(Lists::Refreshed), false),
    ] {
        let sources = sources(Some(apt), Presence::Here);
        let items = plan(&missing, Purpose::Build, &sources);
        assert_eq!(wants_new_lists(&items, &sources), expected, "{name}");
    }
}

#[test]
fn the_table_has_its_columns_under_each_other() {
    let rows = [["a", "for this", "so"], ["longer", "why", "in another way"]].map(|row| row.map(str::to_owned));
    assert_eq!(aligned(&rows), "  a       for this  so\n  longer  why       in another way\n");
}

fn with_apt() -> Vec<Case> {
    vec![
        Case {
            name: "a clean Debian, as root",
            machine: machine(None, None, vec![], vec![]).without_programs(),
            purpose: Purpose::Lab,
            privilege: Privilege::Root,
            sources: sources(Some(debian(Lists::AsFound)), Presence::Here),
            things: &["rustc with core's source", "LLVM 22 to build with", "bpf-linker", "ip", "ethtool"],
            commands: "    apt-get update\n    apt-get install --yes --no-install-recommends rustc-web cargo-web \
                       rust-web-src llvm-22-dev iproute2 ethtool\n    cargo xtask setup\n",
        },
        Case {
            name: "a nightly that is ahead of every LLVM of Debian: Debian's compiler comes instead",
            machine: machine(None, Some(ahead_of_debian()), vec![], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::Root,
            sources: sources(Some(debian(Lists::Refreshed)), Presence::Here),
            things: &["rustc with core's source", "LLVM 22 to build with", "bpf-linker"],
            commands: "    apt-get update\n    apt-get install --yes --no-install-recommends rustc-web cargo-web \
                       rust-web-src llvm-22-dev\n    cargo xtask setup\n",
        },
        Case {
            name: "a nightly that is ahead of Debian, and its linker: nothing is missing",
            machine: machine(None, Some(ahead_of_debian()), vec![linker(23)], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::Root,
            sources: sources(Some(debian(Lists::Refreshed)), Presence::Here),
            things: &[],
            commands: "    cargo xtask setup\n",
        },
        Case {
            name: "a clean Debian, as a user, for linting",
            machine: machine(None, None, vec![], vec![]),
            purpose: Purpose::Lint,
            privilege: Privilege::User,
            sources: sources(Some(debian(Lists::AsFound)), Presence::Here),
            things: &["rustc with core's source", "LLVM 22 to build with", "bpf-linker", "clippy of that rustc"],
            commands: "    sudo apt-get update\n    sudo apt-get install --yes --no-install-recommends rustc-web \
                       cargo-web rust-web-src llvm-22-dev rust-web-clippy\n    cargo xtask setup\n",
        },
        Case {
            name: "the VM test, where nothing else is missing",
            machine: Machine {
                missing_programs: VM_PROGRAMS.iter().collect(),
                ..machine(Some(installed(Presence::Here, Presence::Here)), None, vec![linker(22)], vec![])
            },
            purpose: Purpose::Vm,
            privilege: Privilege::Root,
            sources: sources(Some(debian(Lists::AsFound)), Presence::Absent),
            things: &["qemu-system-x86_64", "xz", "ipvsadm"],
            commands: "    apt-get update\n    apt-get install --yes --no-install-recommends qemu-system-x86 xz-utils \
                       ipvsadm\n    cargo xtask setup\n",
        },
        Case {
            name: "the comparison with other load balancers, where nothing else is missing",
            machine: Machine {
                missing_programs: PEER_PROGRAMS.iter().collect(),
                ..machine(Some(installed(Presence::Here, Presence::Here)), None, vec![linker(22)], vec![])
            },
            purpose: Purpose::Peers,
            privilege: Privilege::Root,
            sources: sources(Some(debian(Lists::AsFound)), Presence::Absent),
            things: &["nft", "haproxy", "nginx"],
            commands: "    apt-get update\n    apt-get install --yes --no-install-recommends nftables haproxy \
                       libnginx-mod-stream\n    cargo xtask setup\n",
        },
        Case {
            name: "only the sources of core are missing",
            machine: machine(Some(installed(Presence::Absent, Presence::Here)), None, vec![linker(22)], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::Root,
            sources: sources(Some(debian_with_compiler()), Presence::Absent),
            things: &["rustc with core's source"],
            commands: "    apt-get update\n    apt-get install --yes --no-install-recommends rust-web-src\n    \
                       cargo xtask setup\n",
        },
    ]
}

fn without_apt() -> Vec<Case> {
    let usable = Some(installed(Presence::Here, Presence::Here));
    vec![
        Case {
            name: "everything is here",
            machine: machine(usable, None, vec![linker(22)], vec![]),
            purpose: Purpose::Ci,
            privilege: Privilege::User,
            sources: sources(None, Presence::Absent),
            things: &[],
            commands: "    cargo xtask setup\n",
        },
        Case {
            name: "a linker for an older LLVM, and the LLVM to build one with",
            machine: machine(usable, None, vec![linker(21)], vec![llvm(22)]),
            purpose: Purpose::Build,
            privilege: Privilege::User,
            sources: sources(None, Presence::Absent),
            things: &["bpf-linker"],
            commands: "    cargo xtask setup\n",
        },
        Case {
            name: "no apt, and a nightly without the sources of core",
            machine: machine(None, Some(installed(Presence::Absent, Presence::Here)), vec![linker(22)], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::User,
            sources: sources(None, Presence::Here),
            things: &["rustc with core's source"],
            commands: "    rustup component add rust-src --toolchain nightly\n    cargo xtask setup\n",
        },
        Case {
            name: "no apt, and no nightly: its LLVM is not known yet",
            machine: machine(None, None, vec![], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::User,
            sources: sources(None, Presence::Here),
            things: &["rustc with core's source"],
            commands: "    rustup toolchain install nightly --component rust-src\n    cargo xtask setup\n",
        },
        Case {
            name: "neither apt nor rustup",
            machine: machine(None, None, vec![], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::Root,
            sources: sources(None, Presence::Absent),
            things: &["rustc with core's source"],
            commands: "    rustup toolchain install nightly --component rust-src  # rustup itself is at \
                       https://rustup.rs\n    cargo xtask setup\n",
        },
        Case {
            name: "Debian's was asked for, where there is no apt",
            machine: Machine { asked: Asked::Debian, ..machine(None, None, vec![], vec![]) },
            purpose: Purpose::Build,
            privilege: Privilege::Root,
            sources: sources(None, Presence::Here),
            things: &["rustc with core's source"],
            commands: "    unset CLB_EBPF_TOOLCHAIN  # there are no packages of Debian to get here\n    cargo xtask setup\n",
        },
        Case {
            name: "no apt, and no LLVM to build bpf-linker with",
            machine: machine(None, usable, vec![], vec![]),
            purpose: Purpose::Build,
            privilege: Privilege::Root,
            sources: sources(None, Presence::Here),
            things: &["LLVM 22 to build with", "bpf-linker"],
            commands: "    export LLVM_PREFIX=FOLDER  # where LLVM 22 is, with bin/llvm-config and lib/libLLVM.so\n    \
                       cargo xtask setup\n",
        },
    ]
}

fn machine(debian: Option<Installed>, rustup: Option<Installed>, linkers: Vec<Linker>, llvms: Vec<Llvm>) -> Machine {
    let asked = Asked::Either;
    Machine { asked, debian, rustup, linkers, llvms, missing_programs: vec![], missing_host_tools: vec![] }
}

impl Machine {
    fn without_programs(self) -> Self {
        Self { missing_programs: PROGRAMS.iter().collect(), ..self }
    }
}

fn installed(source: Presence, clippy: Presence) -> Installed {
    let compiler = Compiler { release: Version { major: 1, minor: 99 }, llvm: 22 };
    Installed { compiler, source, clippy }
}

fn ahead_of_debian() -> Installed {
    let compiler = Compiler { release: Version { major: 1, minor: 99 }, llvm: 23 };
    Installed { compiler, ..installed(Presence::Here, Presence::Here) }
}

fn linker(llvm: u32) -> Linker {
    Linker { path: PathBuf::from("bpf-linker"), version: Version { major: 0, minor: 13 }, llvm }
}

fn llvm(major: u32) -> Llvm {
    Llvm { major, prefix: PathBuf::from("/usr/lib/llvm") }
}

fn sources(apt: Option<Apt>, rustup: Presence) -> Sources {
    Sources { apt, rustup }
}

/// A Debian that offers everything and has installed nothing.
fn debian(lists: Lists) -> Apt {
    let offered = |name| (name, None, Some("1.99.0+dfsg1-1"));
    Apt::with(lists, Some(22), &PACKAGES.map(offered))
}

/// A Debian that offers a compiler older than the workspace takes.
fn with_old_compiler(lists: Lists) -> Apt {
    Apt::with(lists, Some(14), &["rustc", "rustc-web"].map(|name| (name, None, Some("1.63.0+dfsg1-2"))))
}

/// The same with the compiler and cargo installed.
fn debian_with_compiler() -> Apt {
    let packages = PACKAGES.map(|name| {
        let installed = matches!(name, "rustc-web" | "cargo-web").then_some("1.99.0+dfsg1-1");
        (name, installed, Some("1.99.0+dfsg1-1"))
    });
    Apt::with(Lists::AsFound, Some(22), &packages)
}

const PACKAGES: [&str; 7] =
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "llvm-22-dev", "iproute2", "ethtool"];
