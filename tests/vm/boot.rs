//! From a kernel with an unpacked archive to a system in which programs find what they expect.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount as mount_filesystem},
    sys::utsname::uname,
};

/// Mounts the kernel's own file systems.
pub fn mount() -> Result<()> {
    for (kind, on) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        fs::create_dir_all(on).with_context(|| format!("make {on}"))?;
        mount_filesystem(Some(kind), on, Some(kind), MsFlags::empty(), None::<&Path>)
            .with_context(|| format!("mount {kind} on {on}"))?;
    }
    Ok(())
}

/// Loads every module of the archive: their names sort so that each comes after those that it needs.
pub fn load_modules() -> Result<String> {
    let entries = fs::read_dir(MODULES).with_context(|| format!("read {MODULES}"))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in &paths {
        let module = File::open(path).with_context(|| format!("open {}", path.display()))?;
        finit_module(&module, c"", ModuleInitFlags::empty()).with_context(|| format!("load {}", path.display()))?;
    }
    Ok(format!("Linux {}, {} modules", uname()?.release().display(), paths.len()))
}

const MODULES: &str = "/modules";
