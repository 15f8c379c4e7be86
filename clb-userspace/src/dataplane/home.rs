//! Where maps, links and programs lie so that they outlive the agent: a folder of a BPF file system for each load balancer.
//!
//! `maps-vN` holds the maps of version N of their layout, which instances of the program share; `links` holds what keeps the
//! program on its interfaces, each named by the interface's index and the mode; `stages` the programs that an instance calls,
//! which the kernel forgets when nobody holds their map. What must stay true: only who has locked the folder writes there; and
//! while a link is there, so are the stages of its program.
//!
//! A data plane that nobody is to find, such as one that explains, has a file system of its own that is mounted nowhere. To make
//! one needs `CAP_SYS_ADMIN`.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use clb_common::{ForwardingMode, LAYOUT_VERSION};
use rustix::{
    fs::{FlockOperation, Mode as FileMode, OFlags, flock, statfs},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::{attach::Mode, space::Capacity};

/// The folder of one load balancer.
pub struct Home {
    root: OwnedFd,
    /// For a person.
    path: PathBuf,
    maps: String,
    when_dropped: WhenDropped,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenDropped {
    Keep,
    Remove,
}

/// A link that is kept.
pub struct KeptLink {
    /// The index of its interface.
    pub interface: u32,
    /// How it is attached.
    pub mode: Mode,
    /// Where it is kept.
    pub path: PathBuf,
}

impl Home {
    /// One that nobody else sees, and that is gone with its owner.
    pub fn private() -> anyhow::Result<Self> {
        let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC).context("make a BPF file system")?;
        fsconfig_create(&context).context("make a BPF file system")?;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        let root = root.context("open a BPF file system")?;
        Self { root, path: PathBuf::new(), maps: maps_folder(), when_dropped: WhenDropped::Keep }.furnish()
    }

    /// That of a load balancer below this BPF file system, with what an agent may have left there. Refuses if another agent
    /// owns it. Removed when it is dropped, if it was empty and is not to be kept.
    pub fn of(bpf_fs: &Path, load_balancer: &str) -> anyhow::Result<Self> {
        check_is_bpf_fs(bpf_fs)?;
        let mut path = bpf_fs.to_owned();
        for folder in [HOMES.to_owned(), folder_name(load_balancer)] {
            path.push(folder);
            make_folder(&path)?;
        }
        let mut home = Self::lock(path, load_balancer)?;
        home.check_version()?;
        if !home.is_furnished() {
            home.when_dropped = WhenDropped::Remove;
        }
        home.furnish()
    }

    /// Locks a folder that is there.
    fn lock(path: PathBuf, load_balancer: &str) -> anyhow::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, FileMode::empty())
            .with_context(|| format!("open the folder {}", path.display()))?;
        match flock(&root, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                "another clb runs the load balancer {load_balancer}\n\
                 help: stop it first (`clb status` asks it who it is); load balancers with other ids run side by side"
            ),
            Err(error) => return Err(error).with_context(|| format!("lock the folder {}", path.display())),
        }
        Ok(Self { root, path, maps: maps_folder(), when_dropped: WhenDropped::Keep })
    }

    fn check_version(&self) -> anyhow::Result<()> {
        let others = entries(&self.inside(""))?.into_iter().filter(|name| name.starts_with(MAPS) && *name != self.maps);
        let Some(other) = others.min() else { return Ok(()) };
        bail!(
            "{} holds maps of another version of clb: {other}, and this clb has {}\n\
             help: start the clb that made them; or end forwarding with `clb detach`, then start this one",
            self.path.display(),
            self.maps
        )
    }

    fn furnish(self) -> anyhow::Result<Self> {
        for folder in [self.maps.as_str(), LINKS, STAGES] {
            make_folder(&self.inside(folder))?;
        }
        Ok(self)
    }

    /// Whether it has all maps of a data plane.
    pub fn is_furnished(&self) -> bool {
        self.map("TRANSITIONS").exists() && self.map("LISTENERS").exists()
    }

    /// Does not remove it when it is dropped: from now on packets depend on it.
    pub fn keep(&mut self) {
        self.when_dropped = WhenDropped::Keep;
    }

    /// Shares the maps of a loaded object from now on. The flows are shared once a listener can have some: until then there
    /// is room for none.
    pub fn add_maps(&self, ebpf: &Ebpf, modes: u32) -> anyhow::Result<()> {
        let has_flows = modes & ForwardingMode::FullNat.bit() != 0;
        for (name, map) in ebpf.maps() {
            let is_own = is_of_one_instance(name) || !has_flows && FLOWS.contains(&name);
            let path = self.map(name);
            if !is_own && !path.exists() {
                map.pin(path).with_context(|| format!("share the map {name}"))?;
            }
        }
        Ok(())
    }

    /// The maps by name, and where a loader finds them.
    pub fn maps(&self) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let names = entries(&self.inside(&self.maps))?;
        Ok(names.into_iter().map(|name| (name.clone(), self.map(&name))).collect())
    }

    /// A map, to look at it before the program is loaded.
    pub fn open_map(&self, name: &str) -> anyhow::Result<MapData> {
        MapData::from_pin(self.map(name)).with_context(|| format!("open the map {name} in {}", self.path.display()))
    }

    /// How much the maps hold that are there.
    pub fn capacity(&self, modes: u32) -> anyhow::Result<Capacity> {
        let entries =
            |name| Ok::<u32, anyhow::Error>(self.open_map(name)?.info().context("look at a map")?.max_entries());
        Ok(Capacity {
            listeners: entries("LISTENERS")?,
            backends: entries("BACKENDS")?,
            blocks: entries("SLOTS")?,
            transitions: entries("TRANSITIONS")?,
            modes,
        })
    }

    /// How many flows the map holds that is there.
    pub fn max_flows(&self) -> anyhow::Result<Option<u32>> {
        if !self.map("FLOWS").exists() {
            return Ok(None);
        }
        Ok(Some(self.open_map("FLOWS")?.info().context("look at a map")?.max_entries()))
    }

    /// Keeps the stages of an instance, and returns the number that they are kept under.
    pub fn add_stages(&self, stages: &Map) -> anyhow::Result<u32> {
        let number = self.stages()?.last().map_or(0, |last| last + 1);
        stages.pin(self.inside(STAGES).join(number.to_string())).context("keep the stages of the program")?;
        Ok(number)
    }

    /// Removes the stages of all instances but this one.
    pub fn remove_stages_but(&self, kept: u32) -> anyhow::Result<()> {
        for number in self.stages()?.into_iter().filter(|&number| number != kept) {
            fs::remove_file(self.inside(STAGES).join(number.to_string())).context("remove the stages of a program")?;
        }
        Ok(())
    }

    fn stages(&self) -> anyhow::Result<Vec<u32>> {
        let mut numbers: Vec<u32> =
            entries(&self.inside(STAGES))?.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The links that are there.
    pub fn links(&self) -> anyhow::Result<Vec<KeptLink>> {
        let link = |name: &String| {
            let (interface, mode) = name.split_once('-')?;
            let path = self.inside(LINKS).join(name);
            Some(KeptLink { interface: interface.parse().ok()?, mode: Mode::named(mode)?, path })
        };
        Ok(entries(&self.inside(LINKS))?.iter().filter_map(link).collect())
    }

    /// Where the link of an interface is kept.
    pub fn link(&self, interface: u32, mode: Mode) -> PathBuf {
        self.inside(LINKS).join(format!("{interface}-{mode}"))
    }

    fn map(&self, name: &str) -> PathBuf {
        self.inside(&self.maps).join(name)
    }

    fn inside(&self, folder: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.root.as_raw_fd().to_string()).join(folder)
    }

    /// Removes it: the program leaves its interfaces, then the maps go. Returns how many links there were.
    fn remove(&self) -> anyhow::Result<usize> {
        let mut links = 0;
        let mut folders = entries(&self.inside(""))?;
        folders.sort_by_key(|name| name != LINKS);
        for folder in folders {
            let files = entries(&self.inside(&folder))?;
            if folder == LINKS {
                links = files.len();
            }
            for file in files {
                fs::remove_file(self.inside(&folder).join(file))?;
            }
            fs::remove_dir(self.inside(&folder))?;
        }
        fs::remove_dir(&self.path)?;
        Ok(links)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.when_dropped == WhenDropped::Remove
            && let Err(error) = self.remove()
        {
            tracing::warn!("{} is not wholly removed: {error:#}", self.path.display());
        }
    }
}

/// The load balancers that agents left below this BPF file system, or run there.
pub fn load_balancers(bpf_fs: &Path) -> anyhow::Result<Vec<String>> {
    check_is_bpf_fs(bpf_fs)?;
    let homes = bpf_fs.join(HOMES);
    if !homes.exists() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<String> = entries(&homes)?.iter().map(|folder| id_of(folder)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Ends forwarding for a load balancer whose agent has ended: returns how many interfaces the program was on.
pub fn detach(bpf_fs: &Path, load_balancer: &str) -> anyhow::Result<usize> {
    let path = bpf_fs.join(HOMES).join(folder_name(load_balancer));
    let home = Home::lock(path, load_balancer)?;
    home.remove().with_context(|| format!("remove {}", home.path.display()))
}

fn check_is_bpf_fs(path: &Path) -> anyhow::Result<()> {
    let kind = statfs(path).map(|about| about.f_type);
    if kind.is_ok_and(|kind| kind == BPF_FS_MAGIC) {
        return Ok(());
    }
    Err(anyhow!(
        "{path} is no BPF file system, in which maps and links outlive the agent\n\
         help: `mount -t bpf bpf {path}`, or name another one with `--bpf-fs PATH`",
        path = path.display()
    ))
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("make the folder {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> anyhow::Result<Vec<String>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let names: io::Result<Vec<String>> = read();
    names.with_context(|| format!("read the folder {}", folder.display()))
}

/// The kernel allows no dot in names there, and an id may have any character.
fn folder_name(load_balancer: &str) -> String {
    let mut name = String::new();
    for byte in load_balancer.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

fn id_of(folder: &str) -> String {
    let mut parts = folder.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.extend(u8::from_str_radix(code, 16));
        bytes.extend(rest.bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn maps_folder() -> String {
    format!("{MAPS}{LAYOUT_VERSION}")
}

/// Settings, the stages that an instance calls, and its log.
fn is_of_one_instance(name: &str) -> bool {
    name.starts_with('.') || name.starts_with("AYA_") || name == "PROGRAMS"
}

const HOMES: &str = "clb";
const MAPS: &str = "maps-v";
const LINKS: &str = "links";
const STAGES: &str = "stages";
const FLOWS: [&str; 2] = ["FLOWS", "RETURNS"];
/// linux/magic.h
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_a_folder_of_its_own_without_dots() {
        for id in ["lb-edge_1", "edge.eu", "a/b", "löwe", "50%", "%41", "."] {
            let folder = folder_name(id);
            assert!(!folder.contains(['.', '/']), "{folder}");
            assert_eq!(id_of(&folder), id);
        }
    }
}
