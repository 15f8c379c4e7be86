//! What is missing, why it is needed and how to get it: pure functions from what was found.
//!
//! A plan has every missing thing at once, so that a person sees all of it before anything is changed. The one thing that
//! may be unknown is the LLVM of a compiler that is not here yet; a second plan follows once it is.

use crate::apt::{self, Apt, Family, INSTALL, Lists};
use crate::linker::{self, Linker};
use crate::machine::{HostTool, Machine, Program, Purpose};
use crate::toolchain::{self, Asked, Compiler, Installed, Presence, Toolchain, VARIABLE};
use crate::workspace::Privilege;

/// What a task builds the XDP program with.
#[derive(Debug)]
pub struct Tools {
    pub toolchain: Toolchain,
    pub compiler: Compiler,
    pub linker: Linker,
}

/// Where missing things could come from.
pub struct Sources {
    pub apt: Option<Apt>,
    pub rustup: Presence,
}

/// A missing thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub thing: String,
    pub why: &'static str,
    pub how: How,
}

/// How a missing thing is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// `apt-get install` of these.
    Packages(Vec<String>),
    /// `rustup` with these arguments.
    Rustup(Vec<String>),
    /// Our own build of bpf-linker for this LLVM.
    BuildLinker { llvm: u32 },
    /// Only a person can, and this is what to do.
    ByHand(String),
}

/// The tools, if nothing that `purpose` needs is missing.
pub fn complete(machine: &Machine, purpose: Purpose) -> Option<Tools> {
    let (toolchain, installed) = machine.toolchain()?;
    let linker = linker::choose(&machine.linkers, installed.compiler.llvm)?.clone();
    let Machine { missing_programs, missing_host_tools, .. } = machine;
    let lacks_clippy = purpose.judges_the_code() && installed.clippy == Presence::Absent;
    let lacks_some = lacks_clippy || !missing_programs.is_empty() || !missing_host_tools.is_empty();
    (!lacks_some).then_some(Tools { toolchain, compiler: installed.compiler, linker })
}

/// Everything that `purpose` needs and `machine` lacks, in the order to install it.
pub fn plan(machine: &Machine, purpose: Purpose, sources: &Sources) -> Vec<Item> {
    let mut items = Vec::new();
    let (toolchain, llvm) =
        if let Some((toolchain, installed)) = machine.toolchain().filter(|found| has_linker(machine, sources, found)) {
            (Some(toolchain), Some(installed.compiler.llvm))
        } else {
            let Acquisition { toolchain, how, llvm } = acquire_toolchain(machine, sources);
            let thing = "rustc with core's source".to_owned();
            items.push(Item { thing, why: "compiles the XDP program for the BPF target", how });
            (toolchain, llvm)
        };
    if let Some(llvm) = llvm
        && linker::choose(&machine.linkers, llvm).is_none()
    {
        items.extend(acquire_linker(machine, sources, llvm));
    }
    if purpose.judges_the_code()
        && let Some(toolchain) = toolchain
    {
        items.extend(acquire_clippy(machine, sources, &toolchain));
    }
    items.extend(machine.missing_programs.iter().map(|program| acquire_program(program, sources)));
    items.extend(machine.missing_host_tools.iter().map(|tool| acquire_host_tool(*tool, sources)));
    items
}

/// Whether a linker for this toolchain is here or can be had. If not, and nobody asked for the toolchain by name, Debian's
/// comes instead: a nightly may be ahead of every LLVM that there is a package of.
fn has_linker(machine: &Machine, sources: &Sources, (toolchain, installed): &(Toolchain, Installed)) -> bool {
    let llvm = installed.compiler.llvm;
    let is_replaceable = machine.asked == Asked::Either
        && matches!(toolchain, Toolchain::Rustup(_))
        && sources.apt.as_ref().is_some_and(|apt| apt.family().is_some());
    !is_replaceable
        || linker::choose(&machine.linkers, llvm).is_some()
        || acquire_linker(machine, sources, llvm).iter().all(|item| !matches!(item.how, How::ByHand(_)))
}

/// Whether newer package lists could change `items`.
pub fn wants_new_lists(items: &[Item], sources: &Sources) -> bool {
    let Some(apt) = sources.apt.as_ref().filter(|apt| apt.lists == Lists::AsFound) else { return false };
    items.iter().any(|item| match &item.how {
        How::Packages(packages) => packages.iter().any(|package| !apt.offers(package)),
        How::ByHand(_) => true,
        // Lists that are there in part only, as on a new machine, may not offer the compiler that a mirror has.
        How::Rustup(_) => apt.family().is_none(),
        How::BuildLinker { .. } => false,
    })
}

/// Whether a person has to act before `items` can be had.
pub fn needs_a_person(items: &[Item], privilege: Privilege) -> bool {
    items.iter().any(|item| match item.how {
        How::ByHand(_) => true,
        How::Packages(_) => privilege == Privilege::User,
        How::Rustup(_) | How::BuildLinker { .. } => false,
    })
}

/// The packages of `items`, each once.
pub fn packages(items: &[Item]) -> Vec<&str> {
    let mut packages = Vec::new();
    for item in items {
        if let How::Packages(names) = &item.how {
            packages
                .extend(names.iter().map(String::as_str).filter(|name| !packages.contains(name)).collect::<Vec<_>>());
        }
    }
    packages
}

/// `items` as a table: thing, why, how.
pub fn table(items: &[Item]) -> String {
    let rows: Vec<[String; 3]> =
        items.iter().map(|item| [item.thing.clone(), item.why.to_owned(), describe(&item.how)]).collect();
    aligned(&rows)
}

/// `items` as commands to copy and run, which end with everything installed.
pub fn commands(items: &[Item], privilege: Privilege) -> String {
    let sudo = if privilege == Privilege::User { "sudo " } else { "" };
    let mut lines = Vec::new();
    let packages = packages(items);
    if !packages.is_empty() {
        lines.push(format!("{sudo}apt-get update"));
        lines.push(format!("{sudo}apt-get {} {}", INSTALL.join(" "), packages.join(" ")));
    }
    lines.extend(items.iter().filter_map(|item| match &item.how {
        How::Rustup(arguments) => Some(format!("rustup {}", arguments.join(" "))),
        How::ByHand(what) => Some(what.clone()),
        How::Packages(_) | How::BuildLinker { .. } => None,
    }));
    lines.push("cargo xtask setup".to_owned());
    format!("    {}\n", lines.join("\n    "))
}

/// Rows with their columns under each other, indented; the last column is as long as it likes.
pub fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:width$}")).collect();
        cells.concat().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

struct Acquisition {
    toolchain: Option<Toolchain>,
    how: How,
    llvm: Option<u32>,
}

fn acquire_toolchain(machine: &Machine, sources: &Sources) -> Acquisition {
    let name = machine.asked.rustup_name();
    let family = sources.apt.as_ref().and_then(|apt| Some((apt, apt.family()?)));
    match (&machine.asked, family) {
        (Asked::Either | Asked::Debian, Some((apt, family))) => {
            let Family { compiler, cargo, source, .. } = *family;
            let missing: Vec<_> =
                [compiler, cargo, source].into_iter().filter(|package| !apt.has_installed(package)).collect();
            // All installed, and still not usable: name them all, so that a person sees which ones to look at.
            let packages = if missing.is_empty() { vec![compiler, cargo, source] } else { missing };
            Acquisition {
                toolchain: Some(Toolchain::Debian),
                how: How::Packages(packages.into_iter().map(str::to_owned).collect()),
                llvm: machine
                    .debian
                    .filter(|found| found.compiler.release >= toolchain::oldest())
                    .map_or(apt.compiler_llvm, |found| Some(found.compiler.llvm)),
            }
        }
        (Asked::Either | Asked::Rustup(_), _) if sources.rustup == Presence::Here => {
            let recent = machine.rustup.filter(|found| found.compiler.release >= toolchain::oldest());
            let arguments = match recent {
                Some(_) => ["component", "add", "rust-src", "--toolchain", name],
                None => ["toolchain", "install", name, "--component", "rust-src"],
            };
            Acquisition {
                toolchain: Some(Toolchain::Rustup(name.to_owned())),
                how: How::Rustup(arguments.map(str::to_owned).to_vec()),
                llvm: recent.map(|found| found.compiler.llvm),
            }
        }
        (asked, _) => {
            let how = How::ByHand(match asked {
                Asked::Debian => format!("unset {VARIABLE}  # there are no packages of Debian to get here"),
                Asked::Either | Asked::Rustup(_) => format!(
                    "rustup toolchain install {name} --component rust-src  # rustup itself is at https://rustup.rs"
                ),
            });
            Acquisition { toolchain: None, how, llvm: None }
        }
    }
}

fn acquire_linker(machine: &Machine, sources: &Sources, llvm: u32) -> Vec<Item> {
    let thing = "bpf-linker".to_owned();
    let why = "links the XDP program";
    if !linker::LLVMS.contains(&llvm) {
        let newest = linker::LLVMS.end();
        let how = How::ByHand(format!(
            "export {VARIABLE}=NAME  # a toolchain whose LLVM is at most {newest}, as bpf-linker knows no newer one; this is {llvm}"
        ));
        return vec![Item { thing, why, how }];
    }
    let mut items = Vec::new();
    if !machine.llvms.iter().any(|found| found.major == llvm) {
        let by_hand =
            format!("export LLVM_PREFIX=FOLDER  # where LLVM {llvm} is, with bin/llvm-config and lib/libLLVM.so");
        let how = from_apt(sources, &apt::llvm_package(llvm), by_hand);
        items.push(Item { thing: format!("LLVM {llvm} to build with"), why: "bpf-linker is made of it", how });
    }
    items.push(Item { thing, why, how: How::BuildLinker { llvm } });
    items
}

fn acquire_clippy(machine: &Machine, sources: &Sources, toolchain: &Toolchain) -> Option<Item> {
    let by_hand = "# install clippy for the compiler of the XDP program".to_owned();
    let (installed, how) = match toolchain {
        Toolchain::Debian => {
            let family = sources.apt.as_ref().and_then(Apt::family);
            let how = family.map_or(How::ByHand(by_hand.clone()), |family| from_apt(sources, family.clippy, by_hand));
            (machine.debian, how)
        }
        Toolchain::Rustup(name) => (
            machine.rustup,
            How::Rustup(["component", "add", "clippy", "--toolchain", name].map(str::to_owned).to_vec()),
        ),
    };
    let is_missing = installed.is_none_or(|installed| installed.clippy == Presence::Absent);
    is_missing.then(|| Item { thing: "clippy of that rustc".to_owned(), why: "judges the XDP program's code", how })
}

fn acquire_program(program: &Program, sources: &Sources) -> Item {
    let Program { name, package, why } = *program;
    Item { thing: name.to_owned(), why, how: from_apt(sources, package, format!("# install {name} ({package})")) }
}

fn acquire_host_tool(tool: HostTool, sources: &Sources) -> Item {
    let component = tool.component();
    let by_hand = format!("# install {component} for the toolchain of `cargo`");
    let how = match (sources.rustup, sources.apt.as_ref().and_then(Apt::family)) {
        (Presence::Here, _) => How::Rustup(["component", "add", component].map(str::to_owned).to_vec()),
        (Presence::Absent, None) => How::ByHand(by_hand),
        (Presence::Absent, Some(Family { clippy, rustfmt, .. })) => {
            let package = match tool {
                HostTool::Clippy => clippy,
                HostTool::Rustfmt => rustfmt,
            };
            from_apt(sources, package, by_hand)
        }
    };
    Item { thing: component.to_owned(), why: "judges the agent's code", how }
}

/// `package`, unless there is no apt or it is known not to have it.
fn from_apt(sources: &Sources, package: &str, by_hand: String) -> How {
    match &sources.apt {
        Some(apt) if apt.offers(package) || apt.lists == Lists::AsFound => How::Packages(vec![package.to_owned()]),
        _ => How::ByHand(by_hand),
    }
}

/// What is done to get a thing.
pub fn describe(how: &How) -> String {
    match how {
        How::Packages(packages) => format!("apt-get install {}", packages.join(" ")),
        How::Rustup(arguments) => format!("rustup {}", arguments.join(" ")),
        How::BuildLinker { llvm } => format!("cargo install, for LLVM {llvm}, into .tools; takes about a minute"),
        How::ByHand(_) => "by hand, see below".to_owned(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
