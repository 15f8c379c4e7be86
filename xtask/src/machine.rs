//! What this machine has, looked up once and kept as plain data, so that every decision about it is a pure function.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::linker::{self, Linker, Llvm};
use crate::toolchain::{self, Asked, Installed, Toolchain};
use crate::workspace::{Workspace, answer};

/// Everything that a task may need, as far as it was found.
pub struct Machine {
    pub asked: Asked,
    pub debian: Option<Installed>,
    pub rustup: Option<Installed>,
    pub linkers: Vec<Linker>,
    pub llvms: Vec<Llvm>,
    /// Those of [`PROGRAMS`], [`VM_PROGRAMS`] and [`PEER_PROGRAMS`] that are missing.
    pub missing_programs: Vec<&'static Program>,
    /// Those of [`HOST_TOOLS`] that are missing.
    pub missing_host_tools: Vec<HostTool>,
}

/// A program that the tests call.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
    pub why: &'static str,
}

/// A part of the toolchain that runs us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTool {
    Rustfmt,
    Clippy,
}

/// What a task is for, and with it what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building the XDP program.
    Build,
    /// Building it and running the lab.
    Lab,
    /// Building it and judging the code.
    Lint,
    /// Building it and running the lab in virtual machines.
    Vm,
    /// Building it and running the lab with other load balancers.
    Peers,
    /// All of it, but for the virtual machines: their step of CI asks for itself, as it may be skipped.
    Ci,
}

impl Purpose {
    pub fn runs_the_lab(self) -> bool {
        matches!(self, Self::Lab | Self::Vm | Self::Peers | Self::Ci)
    }

    pub fn judges_the_code(self) -> bool {
        matches!(self, Self::Lint | Self::Ci)
    }
}

impl Machine {
    /// Looks for what `purpose` needs.
    pub fn look(workspace: &Workspace, purpose: Purpose) -> Self {
        let asked = Asked::from_environment();
        let rustup = toolchain::find_rustup(asked.rustup_name());
        let host_tools: &[HostTool] = if purpose.judges_the_code() { &HOST_TOOLS } else { &[] };
        let lab_programs: &[Program] = if purpose.runs_the_lab() { &PROGRAMS } else { &[] };
        let more_programs: &[Program] = match purpose {
            Purpose::Vm => &VM_PROGRAMS,
            Purpose::Peers => &PEER_PROGRAMS,
            Purpose::Build | Purpose::Lab | Purpose::Lint | Purpose::Ci => &[],
        };
        let programs = lab_programs.iter().chain(more_programs);
        Self {
            debian: toolchain::find_debian(),
            rustup,
            asked,
            linkers: linker::find(workspace),
            llvms: linker::find_llvms(),
            missing_programs: programs.filter(|program| find_program(program.name).is_none()).collect(),
            missing_host_tools: host_tools
                .iter()
                .copied()
                .filter(|tool| answer(workspace.cargo().args([tool.subcommand(), "--version"])).is_none())
                .collect(),
        }
    }

    /// The toolchain that builds the XDP program, if there is one.
    pub fn toolchain(&self) -> Option<(Toolchain, Installed)> {
        toolchain::choose(&self.asked, self.debian, self.rustup)
    }
}

impl HostTool {
    pub fn subcommand(self) -> &'static str {
        match self {
            Self::Rustfmt => "fmt",
            Self::Clippy => "clippy",
        }
    }

    /// Its component of rustup.
    pub fn component(self) -> &'static str {
        match self {
            Self::Rustfmt => "rustfmt",
            Self::Clippy => "clippy",
        }
    }
}

/// Looks in [`search_path`].
pub fn find_program(name: &str) -> Option<PathBuf> {
    which::which_in_global(name, Some(search_path())).ok()?.next()
}

/// Ours, and where Debian keeps root's programs: a user's PATH leaves that out.
pub fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

pub const PROGRAMS: [Program; 2] = [
    Program { name: "ip", package: "iproute2", why: "makes the network namespaces of the lab" },
    Program { name: "ethtool", package: "ethtool", why: "turns off what native XDP on veth does not allow" },
];
pub const QEMU: &str = "qemu-system-x86_64";
pub const XZ: &str = "xz";
pub const IPVSADM: &str = "ipvsadm";
/// What virtual machines need besides.
pub const VM_PROGRAMS: [Program; 3] = [
    Program { name: QEMU, package: "qemu-system-x86", why: "emulates a machine for the VM test" },
    Program { name: XZ, package: "xz-utils", why: "unpacks the modules of its kernels" },
    Program { name: IPVSADM, package: "ipvsadm", why: "sets up the kernel's own load balancer there, to compare with" },
];
/// What clb is compared to.
pub const PEER_PROGRAMS: [Program; 3] = [
    Program { name: "nft", package: "nftables", why: "balances in the kernel, to compare with" },
    Program {
        name: "haproxy",
        package: "haproxy",
        why: "is a proxy, to compare with; Debian starts it as a service, too",
    },
    // The module that balances TCP, which brings nginx.
    Program {
        name: "nginx",
        package: "libnginx-mod-stream",
        why: "is a proxy, to compare with; Debian starts it as a service, too",
    },
];
const HOST_TOOLS: [HostTool; 2] = [HostTool::Rustfmt, HostTool::Clippy];
