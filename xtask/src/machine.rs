//! What this machine has, looked up once and kept as plain data, so that every decision about it is a pure function.

use std::env;
use std::ffi::OsString;

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
    /// Those of [`PROGRAMS`] that are missing.
    pub missing_programs: Vec<&'static Program>,
    /// Those of [`HOST_TOOLS`] that are missing.
    pub missing_host_tools: Vec<HostTool>,
}

/// A program that the lab of network namespaces calls.
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
    /// All of it.
    Ci,
}

impl Purpose {
    pub fn runs_the_lab(self) -> bool {
        matches!(self, Self::Lab | Self::Ci)
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
        let programs: &[Program] = if purpose.runs_the_lab() { &PROGRAMS } else { &[] };
        Self {
            debian: toolchain::find_debian(),
            rustup,
            asked,
            linkers: linker::find(workspace),
            llvms: linker::find_llvms(),
            missing_programs: programs.iter().filter(|program| !is_program_here(program.name)).collect(),
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

/// Also looks where Debian keeps root's programs: a user's PATH leaves that out.
fn is_program_here(name: &str) -> bool {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":/usr/sbin:/sbin"));
    which::which_in_global(name, Some(path)).is_ok_and(|mut found| found.next().is_some())
}

pub const PROGRAMS: [Program; 2] = [
    Program { name: "ip", package: "iproute2", why: "makes the network namespaces of the lab" },
    Program { name: "ethtool", package: "ethtool", why: "turns off what native XDP on veth does not allow" },
];
const HOST_TOOLS: [HostTool; 2] = [HostTool::Rustfmt, HostTool::Clippy];
