//! Debian's kernels for cloud machines, unpacked into `.tools/linux-SERIES`, and their modules.
//!
//! Nothing of a package is run or installed. The newest package of a series is taken once, and kept: remove the folder for
//! a newer one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::apt::apt_get;
use crate::machine::XZ;
use crate::progress;
use crate::setup;
use crate::version::leading_number;
use crate::workspace::{CannotRun, Workspace, answer};

/// The oldest kernel that clb runs on, and the one of today's Debian.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

/// An unpacked package.
pub struct Kernel {
    pub series: &'static str,
    pub release: String,
    pub image: PathBuf,
    modules: PathBuf,
}

/// A module that can be loaded once those before it were.
pub struct Module {
    pub name: String,
    pub code: Vec<u8>,
}

/// The kernel, fetched if need be; [`CannotRun`] if it cannot be had here.
pub fn ready(workspace: &Workspace, series: &'static str) -> Result<Kernel> {
    let folder = workspace.tools().join(format!("linux-{series}"));
    if !folder.exists() {
        fetch(&folder, series)?;
    }
    find(&folder, series).with_context(|| {
        format!("what is in {} is not as expected\nhelp: remove it, to fetch it again", folder.display())
    })
}

impl Kernel {
    /// These modules and all that they need, each after those that it needs.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let list = |name| {
            let path = self.modules.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let (builtin, order) = (list("modules.builtin")?, list("modules.order")?);
        let mut done: BTreeSet<String> = builtin.lines().map(module_name).collect();
        let mut modules = Vec::new();
        for name in wanted {
            self.add(name, &order, &mut done, &mut modules)?;
        }
        Ok(modules)
    }

    fn add(&self, name: &str, order: &str, done: &mut BTreeSet<String>, modules: &mut Vec<Module>) -> Result<()> {
        if !done.insert(name.to_owned()) {
            return Ok(());
        }
        let path = order.lines().find(|path| module_name(path) == name);
        let path = path.with_context(|| format!("Linux {} has no module {name}", self.release))?;
        let code = self.read(path).with_context(|| format!("read the module {path}"))?;
        for needed in needed_by(&code) {
            self.add(&needed, order, done, modules)?;
        }
        modules.push(Module { name: name.to_owned(), code });
        Ok(())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let plain = self.modules.join(path);
        if plain.exists() {
            return Ok(fs::read(plain)?);
        }
        let mut xz = Command::new(XZ);
        xz.args(["--decompress", "--stdout"]).arg(self.modules.join(path.to_owned() + ".xz"));
        let output = xz.output().with_context(|| format!("start {XZ}"))?;
        ensure!(output.status.success(), "{XZ}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }
}

fn find(folder: &Path, series: &'static str) -> Result<Kernel> {
    // Packages since Debian 13 have everything in /usr.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| folder.join(path));
    let modules = modules.iter().find(|path| path.exists()).context("it has no modules")?;
    let release = fs::read_dir(modules)?.next().context("it has no modules")??.file_name();
    let release = release.into_string().ok().context("its release is text")?;
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    ensure!(image.exists(), "there is no {}", image.display());
    Ok(Kernel { series, modules: modules.join(&release), release, image })
}

/// Unpacks the newest package beside its place, and puts it there when it is whole.
fn fetch(folder: &Path, series: &str) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(CannotRun("only Debian's kernels for amd64 are tried".to_owned()).into());
    }
    let part = PathBuf::from(format!("{}.part", folder.display()));
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    // Lists that are too old name files that the server has replaced.
    let downloaded = download(&part, series).or_else(|_| {
        setup::refresh_lists();
        download(&part, series)
    });
    downloaded.map_err(|error| CannotRun(format!("{error:#}")))?;
    let package = fs::read_dir(&part)?.next().context("apt-get download leaves a file")??.path();
    let mut unpack = Command::new("dpkg-deb");
    progress::run("unpacking it", unpack.arg("--extract").args([&package, &part]))?;
    fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
    fs::rename(&part, folder).with_context(|| format!("name {}", folder.display()))
}

fn download(to: &Path, series: &str) -> Result<()> {
    let package =
        newest_package(series).with_context(|| format!("apt offers no linux-image-{series}.*-cloud-amd64"))?;
    progress::run(&format!("apt-get download of {package}"), apt_get(&["download", &package]).current_dir(to))
}

fn newest_package(series: &str) -> Option<String> {
    let names = answer(Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{series}.")]))?;
    newest(&names).map(str::to_owned)
}

/// Of the packages' names, the one with the greatest numbers.
fn newest(names: &str) -> Option<&str> {
    names.lines().filter(|name| name.ends_with("-cloud-amd64")).max_by_key(|name| numbers(name))
}

fn numbers(text: &str) -> Vec<u32> {
    let starts = text.split(|character: char| !character.is_ascii_digit());
    starts.filter_map(|number| Some(leading_number(number)?.0)).collect()
}

/// `kernel/net/8021q/8021q.ko` is `8021q`; the kernel writes `_` for `-`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// What a module says of itself in its `.modinfo`: `depends=a,b`, between zeros.
fn needed_by(code: &[u8]) -> Vec<String> {
    let strings = code.split(|&byte| byte == 0);
    let depends =
        strings.filter_map(|string| string.strip_prefix(b"depends=")).find_map(|names| str::from_utf8(names).ok());
    depends.unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(module_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_the_one_with_the_greatest_numbers() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-56-cloud-amd64-dbg\n\
                     linux-image-6.1.0-56-cloud-amd64\nlinux-image-6.1.0-57-amd64\n";
        assert_eq!(newest(names), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("linux-image-6.1.0-57-amd64\n"), None);
    }

    #[test]
    fn a_module_is_called_as_the_kernel_calls_it() {
        for (path, expected) in [
            ("kernel/net/8021q/8021q.ko", "8021q"),
            ("kernel/drivers/char/hw_random/virtio-rng.ko", "virtio_rng"),
            ("kernel/drivers/net/veth.ko.xz", "veth"),
        ] {
            assert_eq!(module_name(path), expected);
        }
    }

    #[test]
    fn a_module_names_those_that_it_needs() {
        for (code, expected) in [
            (
                &b"\x7fELF\0license=GPL\0depends=net-failover,failover\0name=virtio_net\0"[..],
                &["net_failover", "failover"][..],
            ),
            (b"\x7fELF\0depends=\0name=failover\0", &[]),
            (b"\x7fELF\0", &[]),
        ] {
            assert_eq!(needed_by(code), expected);
        }
    }
}
