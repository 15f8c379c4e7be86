//! The names that a lab gives, and their removal: of a lab that ends, and of leftovers.
//!
//! What must stay true: only what carries a lab's full name is touched, and a leftover only if its process is gone.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::host;

/// `clb-PID-NUMBER`: the process that owns a lab, and which of its labs it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabName {
    process: u32,
    number: u32,
}

impl LabName {
    pub fn new(process: u32, number: u32) -> Self {
        Self { process, number }
    }

    /// A lab of this process.
    pub fn own(number: u32) -> Self {
        Self::new(process::id(), number)
    }

    /// The lab that a namespace or a directory of this name belongs to.
    pub fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("clb-")?.splitn(3, '-');
        Some(Self::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    pub fn directory(&self) -> PathBuf {
        Path::new(DIRECTORIES).join(self.to_string())
    }

    pub fn bpf_fs(&self) -> PathBuf {
        self.directory().join("bpf")
    }

    pub fn mount_bpf_fs(&self) -> Result<()> {
        let path = self.bpf_fs();
        fs::create_dir(&path).with_context(|| format!("make the folder {}", path.display()))?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount a BPF file system at {}", path.display()))
    }

    fn is_left_over(&self) -> bool {
        !Path::new("/proc").join(self.process.to_string()).exists()
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clb-{}-{}", self.process, self.number)
    }
}

/// Removes a lab, and ends what still runs in it.
pub fn remove(lab: &LabName) -> Result<()> {
    remove_those(|name| name == lab)
}

/// Removes all labs of this process.
pub fn remove_own() -> Result<()> {
    remove_those(|name| name.process == process::id())
}

/// Removes the labs whose process ended without doing it.
pub fn remove_leftovers() -> Result<()> {
    remove_those(LabName::is_left_over)
}

/// The names of all network namespaces that labs made.
pub fn namespaces() -> Result<Vec<String>> {
    lab_entries(host::NAMESPACES)
}

fn remove_those(chosen: impl Fn(&LabName) -> bool) -> Result<()> {
    let is_chosen = |name: &String| LabName::of(name).is_some_and(|lab| chosen(&lab));
    for namespace in namespaces()?.iter().filter(|name| is_chosen(name)) {
        let removed = end_processes(namespace).and_then(|()| delete(namespace));
        // Another process may have removed the same leftover at the same time.
        if Path::new(host::NAMESPACES).join(namespace).exists() {
            removed?;
        }
    }
    for directory in lab_entries(DIRECTORIES)?.iter().filter(|name| is_chosen(name)) {
        let directory = Path::new(DIRECTORIES).join(directory);
        // Nobody uses it any more, whatever was pinned there: with it go programs, links and maps.
        let _ = umount2(&directory.join("bpf"), MntFlags::MNT_DETACH);
        let removed = fs::remove_dir_all(&directory);
        unless_gone(removed).with_context(|| format!("remove the folder {}", directory.display()))?;
    }
    Ok(())
}

fn lab_entries(directory: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {directory}")),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| LabName::of(name).is_some()).collect())
}

/// Ends the processes of a namespace that nobody waits for any more: a shell of a person, or the agent of a killed run.
fn end_processes(namespace: &str) -> Result<()> {
    let listed = host::output(Command::new("ip").args(["netns", "pids", namespace]))?;
    for process in listed.lines().filter_map(|line| line.trim().parse().ok()) {
        // One that ended in between is as good as killed.
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
    Ok(())
}

fn delete(namespace: &str) -> Result<()> {
    host::output(Command::new("ip").args(["netns", "delete", namespace])).map(drop)
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

const DIRECTORIES: &str = "/run";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_names_of_labs_are_recognised() {
        let lab = LabName::new(4711, 2);
        for (name, expected) in [
            ("clb-4711-2-client", true),
            ("clb-4711-2-ins-1", true),
            ("clb-4711-2", true),
            ("clb-4711-21-client", false),
            ("clb-47-2-client", false),
            ("clb-web-2-client", false),
            ("clb-4711", false),
            ("clb", false),
            ("other-4711-2-client", false),
        ] {
            assert_eq!(LabName::of(name).as_ref() == Some(&lab), expected, "{name}");
        }
    }

    #[test]
    fn a_lab_of_a_living_process_is_no_leftover() {
        assert!(!LabName::own(0).is_left_over());
    }
}
