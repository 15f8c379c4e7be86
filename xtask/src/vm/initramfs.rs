//! The guest's whole disk: an archive in memory with `clb-vm` as its first process, the agent, the programs of the lab with
//! their libraries, and the kernel's modules.
//!
//! Programs are this machine's own: the same files as in every other test, on another kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use cpio::newc::{self, ModeFileType};

use super::kernel::{Kernel, Module};
use crate::machine::{self, IPVSADM, find_program};
use crate::workspace::{Workspace, answer};

/// Where the guest finds the eBPF objects and the agent.
pub const EBPF_PROGRAMS: &str = "/ebpf";
pub const AGENT: &str = "/bin/clb";

/// Writes the archive for this kernel.
pub fn write(workspace: &Workspace, kernel: &Kernel, to: &Path) -> Result<()> {
    let mut files = Files::default();
    for (from, to) in [(workspace.vm_init(), "/init"), (workspace.agent(), AGENT)] {
        files.add_program(&from, to)?;
    }
    for name in machine::PROGRAMS.map(|program| program.name).into_iter().chain([IPVSADM]) {
        files.add_program(&find_program(name).with_context(|| format!("find {name}"))?, &format!("/bin/{name}"))?;
    }
    for entry in fs::read_dir(workspace.ebpf_programs()).context("read the folder of the XDP programs")? {
        let path = entry?.path();
        let name = path.file_name().context("an entry has a name")?.display().to_string();
        files.add(format!("{EBPF_PROGRAMS}/{name}"), fs::read(&path)?);
    }
    for (number, Module { name, code }) in kernel.modules(&MODULES)?.into_iter().enumerate() {
        files.add(format!("/modules/{number:03}-{name}.ko"), code);
    }
    files.write(to).with_context(|| format!("write {}", to.display()))
}

/// Files by their absolute path in the guest.
#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn add(&mut self, path: String, content: Vec<u8>) {
        self.0.insert(path, content);
    }

    /// A program, with its libraries at the places where it looks for them.
    fn add_program(&mut self, from: &Path, to: &str) -> Result<()> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        self.add(to.to_owned(), read(from)?);
        let libraries =
            answer(Command::new("ldd").arg(from)).with_context(|| format!("ask ldd about {}", from.display()))?;
        for library in libraries_of(&libraries) {
            self.add(library.display().to_string(), read(&library)?);
        }
        Ok(())
    }

    fn write(&self, to: &Path) -> Result<()> {
        let mut archive = BufWriter::new(File::create(to)?);
        let folders =
            self.0.keys().flat_map(|path| Path::new(path).ancestors().skip(1)).filter(|path| *path != Path::new("/"));
        // Sorted, a folder comes before what is in it.
        let folders: BTreeSet<_> = folders.collect();
        let entries = folders.iter().map(|folder| (folder.display().to_string(), ModeFileType::Directory, &[][..]));
        let files = self.0.iter().map(|(path, content)| (path.clone(), ModeFileType::Regular, content.as_slice()));
        for (path, kind, content) in entries.chain(files) {
            let entry = newc::Builder::new(path.trim_start_matches('/')).mode(0o755).set_mode_file_type(kind);
            let mut entry = entry.write(&mut archive, u32::try_from(content.len())?);
            entry.write_all(content)?;
            entry.finish()?;
        }
        newc::trailer(&mut archive)?;
        Ok(archive.flush()?)
    }
}

/// The paths in what `ldd` prints: `name => /path (address)`, and the loader as `/path (address)`.
fn libraries_of(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// What the guest loads, with all that it needs: its cards, the lab's links, the devices that clb's packets end in, and the load
/// balancer that clb is compared with.
const MODULES: [&str; 11] =
    ["virtio_pci", "virtio_net", "veth", "bridge", "8021q", "ipip", "sit", "ip6_tunnel", "fou", "fou6", "ip_vs_mh"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_where_the_loader_finds_them() {
        let ldd = "\tlinux-vdso.so.1 (0x00007fbe56b5d000)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 \
                   (0x00007fbe5621e000)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007fbe56b5f000)\n";
        assert_eq!(
            libraries_of(ldd),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert_eq!(libraries_of("\tstatically linked\n"), Vec::<PathBuf>::new());
    }
}
