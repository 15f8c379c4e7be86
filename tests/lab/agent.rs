//! The agent on a host of the lab, run as a user runs it.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

use crate::{Host, Lab, host, repository, wait_until};

/// A running `clb run`.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    process: Child,
    socket: PathBuf,
    bpf_fs: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts `clb run` on this host with this file and these options more.
    pub fn start(lab: &Lab, host: &Host, config: &Path, options: &[&str]) -> Result<Self> {
        let binary = binary()?;
        let socket = lab.directory().join(format!("{}.sock", host.label()));
        let log = lab.directory().join(format!("{}.log", host.label()));
        let stderr = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let mut command = host.command(&binary);
        command.arg("run").arg("--config").arg(config).arg("--socket").arg(&socket);
        let bpf_fs = lab.bpf_fs(host)?;
        command.arg("--bpf-fs").arg(&bpf_fs).args(options);
        command.stdin(Stdio::null()).stdout(stderr.try_clone()?).stderr(stderr);
        let process = command.spawn().context("start clb")?;
        Ok(Self { binary, process, socket, bpf_fs, log })
    }

    /// Waits until it answers, and knows the next hop of every backend.
    pub fn wait_until_ready(&mut self) -> Result<Status> {
        let mut latest = Ok(None);
        let waited = wait_until("clb is ready", READY, || {
            if let Some(status) = self.process.try_wait()? {
                bail!("clb ended ({status})");
            }
            latest = self.status().map(Some);
            Ok(matches!(&latest, Ok(Some(status)) if status.unresolved().is_empty()))
        });
        match (waited, latest) {
            (Ok(()), Ok(Some(status))) => Ok(status),
            (Err(error), Ok(Some(status))) => Err(error.context(status.unresolved().join("\n"))),
            (Err(error), Ok(None)) => Err(error),
            (_, Err(error)) => Err(error.context("clb does not answer `clb status`")),
            (Ok(()), Ok(None)) => unreachable!("it was ready, so it had answered"),
        }
    }

    /// What `clb status` says.
    pub fn status(&self) -> Result<Status> {
        let text = host::output(self.status_command().arg("--json"))?;
        serde_json::from_str(&text).context("read what `clb status --json` printed")
    }

    /// The command that asks this agent for its status, for a person.
    pub fn status_command(&self) -> Command {
        self.command("status")
    }

    /// A command that asks this agent.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(verb).arg("--socket").arg(&self.socket);
        command
    }

    /// Where it listens for commands.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The command that ends forwarding when it has ended.
    pub fn detach_command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("detach").arg("--bpf-fs").arg(&self.bpf_fs);
        command
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context("kill clb")?;
        self.process.wait().context("wait for clb").map(drop)
    }

    /// Asks it to end with SIGTERM, and waits for it. Forwarding goes on.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(ended) = self.process.try_wait()? {
            return Ok(ended);
        }
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).context("send SIGTERM to clb")?;
        let mut ended = None;
        wait_until("clb ends after SIGTERM", END, || {
            ended = self.process.try_wait()?;
            Ok(ended.is_some())
        })?;
        ended.context("clb has ended")
    }
}

/// Ends one that was not stopped, and forwarding with it.
impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        let detached = self.stop().and_then(|_| host::output(&mut self.detach_command()));
        if let Err(error) = detached {
            eprintln!("warning: {error:#}; killing it");
            let _ = self.kill();
        }
    }
}

/// The agent's binary: `CLB_BINARY`, or where `cargo xtask build` puts it.
pub fn binary() -> Result<PathBuf> {
    let path = env::var_os("CLB_BINARY").map_or_else(|| repository().join("target/release/clb"), PathBuf::from);
    ensure!(path.exists(), "there is no {}\nhelp: build it with `cargo xtask build`", path.display());
    Ok(path)
}

/// What `clb status --json` says, as far as the lab reads it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Packets that were for nobody here.
    pub passed: u64,
    /// Echo requests to VIPs that clb answered.
    pub answered: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Where the XDP program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// Flows that `full_nat` remembers.
    pub flows: u64,
    /// Flows that are pinned to their backends.
    pub pins: u64,
    /// The listeners.
    pub listeners: Vec<ListenerStatus>,
    /// What was drained.
    pub drains: Vec<DrainStatus>,
}

/// A drain in a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DrainStatus {
    /// The private IP.
    pub address: String,
    /// Its port, or every one.
    pub port: Option<u16>,
    /// Of how many backends it is.
    pub backends: usize,
}

/// An interface in a [`Status`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
}

/// A listener in a [`Status`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    /// Its name in the file.
    pub name: String,
    /// Packets that arrived for it.
    pub packets: u64,
    /// Slots with another owner, whose old flows have time to show themselves.
    pub moving_slots: u32,
    /// Slots with another owner, whose old flows are pinned.
    pub settling_slots: u32,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}

/// A backend in a [`Status`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BackendStatus {
    /// Its private IP.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its part of the slots.
    pub share: f64,
    /// Whether a person drained it.
    pub drained: bool,
    /// Flows that are known to be there.
    pub flows: u64,
    /// In how many seconds others may show themselves.
    pub drain_seconds: Option<f64>,
    /// Whether no flow is there.
    pub is_empty: bool,
    /// What its checks say.
    pub health: Option<HealthStatus>,
    /// Packets sent to it.
    pub packets: u64,
    /// Packets that came back from it through clb, in `nat`.
    pub reply_packets: u64,
    /// Whether clb can reach it.
    pub next_hop: NextHopStatus,
}

/// What a backend's checks say, in a [`Status`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HealthStatus {
    /// `healthy`, `unhealthy` or `unknown`.
    pub verdict: String,
    /// Why it failed.
    pub cause: Option<String>,
    /// Whether it is held back for changing too often.
    pub is_flapping: bool,
    /// How often the verdict changed.
    pub changes: u64,
    /// How long the last check took.
    pub last_seconds: Option<f64>,
}

/// A backend's next hop in a [`Status`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NextHopStatus {
    /// `resolved` or `unresolved`.
    pub state: String,
    /// Why, for a person.
    pub detail: String,
}

impl Status {
    /// The backend with this address of this listener.
    pub fn backend(&self, listener: &str, address: &str) -> Option<&BackendStatus> {
        let listener = self.listeners.iter().find(|candidate| candidate.name == listener)?;
        listener.backends.iter().find(|backend| backend.address == address)
    }

    /// The next hops that are not known, each with its reason.
    pub fn unresolved(&self) -> Vec<String> {
        let backends = self.listeners.iter().flat_map(|listener| &listener.backends);
        let unresolved = backends.filter(|backend| backend.next_hop.state != "resolved");
        unresolved
            .map(|BackendStatus { address, next_hop, .. }| {
                format!("the next hop of {address} is {}: {}", next_hop.state, next_hop.detail)
            })
            .collect()
    }
}

const READY: Duration = Duration::from_secs(15);
const END: Duration = Duration::from_secs(10);
