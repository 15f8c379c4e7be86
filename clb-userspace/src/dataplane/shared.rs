//! Maps that several instances of the program have in common.
//!
//! An object is loaded with maps that are there already by finding them pinned. So they are pinned in a BPF file system of
//! the agent's own that is mounted nowhere: nobody else sees it, and it is gone when the agent ends. To make it needs
//! `CAP_SYS_ADMIN`, which the agent has at its start if root starts it, and gives up before it serves.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::Context as _;
use aya::Ebpf;
use clb_common::ForwardingMode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A file system, and the names of the maps in it.
pub struct SharedMaps {
    root: OwnedFd,
    names: Vec<String>,
}

impl SharedMaps {
    /// Makes an empty one.
    pub fn open() -> anyhow::Result<Self> {
        let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC).context("make a BPF file system")?;
        fsconfig_create(&context).context("make a BPF file system")?;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        Ok(Self { root: root.context("open a BPF file system")?, names: Vec::new() })
    }

    /// Shares the maps of a loaded object from now on. The flows are shared once a listener can have some: until then there
    /// is room for none.
    pub fn add(&mut self, ebpf: &Ebpf, modes: u32) -> anyhow::Result<()> {
        let has_flows = modes & ForwardingMode::FullNat.bit() != 0;
        for (name, map) in ebpf.maps() {
            let is_own = is_of_one_instance(name) || !has_flows && matches!(name, "FLOWS" | "RETURNS");
            if !is_own && !self.names.iter().any(|known| known == name) {
                map.pin(self.path(name)).with_context(|| format!("share the map {name}"))?;
                self.names.push(name.to_owned());
            }
        }
        Ok(())
    }

    /// The maps by name, and where a loader finds them.
    pub fn paths(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.names.iter().map(|name| (name.as_str(), self.path(name)))
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.root.as_raw_fd()).into()
    }
}

/// Settings, the stages that an instance calls, and its log.
fn is_of_one_instance(name: &str) -> bool {
    name.starts_with('.') || name.starts_with("AYA_") || name == "PROGRAMS"
}
