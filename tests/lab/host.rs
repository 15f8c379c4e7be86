//! A host: a network namespace, in which commands and closures run.

use std::{
    fs::{self, File},
    io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::remains::LabName;

/// A handle of a network namespace. The lab owns the namespace itself.
#[derive(Clone, Debug)]
pub struct Host {
    label: String,
    namespace: String,
}

impl Host {
    pub(crate) fn add(lab: &LabName, label: &str) -> Result<Self> {
        let namespace = format!("{lab}-{label}");
        output(Command::new("ip").args(["netns", "add", &namespace]))?;
        Ok(Self { label: label.to_owned(), namespace })
    }

    /// What the lab calls it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The name of its namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Runs a command of words without spaces in them, such as `ip link set eth0 up`, and returns what it printed.
    pub fn run(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let program = words.next().context("a command has a name")?;
        // A child of a thread is on the thread's host: one process less than with `ip netns exec`.
        self.enter(|| output(Command::new(program).args(words)))?
    }

    /// Gives an interface an address, such as `192.0.2.1/24`, that sockets can use at once.
    pub fn add_address(&self, address: &str, device: &str) -> Result<()> {
        // The kernel looks for duplicates of an IPv6 address some time later, even where it need not, and so long it is of no use.
        let option = if address.contains(':') { "nodad" } else { "" };
        self.run(&format!("ip address add {address} dev {device} {option}")).map(drop)
    }

    /// Sets a kernel parameter, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        // The kernel shows a thread the parameters of the thread's own namespace.
        self.enter(|| fs::write(file, value))?.with_context(|| format!("set {name} to {value} on {}", self.label))
    }

    /// Runs a closure on this host, in a thread of its own. A panic goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path: PathBuf = Path::new(NAMESPACES).join(&self.namespace);
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(work())
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
        .with_context(|| format!("enter the network namespace {}", self.namespace))
    }
}

/// Runs a command to its end; one that fails becomes an error with its words and its output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("`{shown}`: there is no such command\nhelp: install the packages iproute2 and ethtool")
        }
        _ => anyhow::Error::new(error).context(format!("run `{shown}`")),
    })?;
    let [printed, complaint] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, format!("{complaint}{printed}").trim());
    }
    Ok(printed)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where `ip netns` keeps the namespaces that have a name.
pub(crate) const NAMESPACES: &str = "/run/netns";
