//! Loading the program that lies in this binary, with its settings and the sizes of its maps.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, anyhow};
use aya::{
    EbpfLoader, VerifierLogLevel,
    maps::{MapData, ProgramArray},
    programs::Xdp,
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use clb_common::{FlowHash, ForwardingMode, Stage};
use nix::sys::utsname::uname;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Capacity, Ipv4Prefix, Ipv6Prefix, ROUTES,
    attach::Attachment,
    clients::UnresolvedClients,
    maps::{self, Maps},
};

/// Load-time settings of the program.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Keys the flow hash.
    pub hash_seed: u64,
    /// Whether dropped packets are logged.
    pub drop_log: DropLog,
    /// Where outer headers come from, in `ipip` and `gue`.
    pub tunnel_v4: Ipv4Prefix,
    /// The same for IPv6.
    pub tunnel_v6: Ipv6Prefix,
    /// The destination port of `gue`.
    pub gue_port: u16,
    /// How many flows `full_nat` can remember.
    pub max_flows: u32,
}

impl Default for Settings {
    /// The prefixes are Katran's `172.16.0.0/16`, and the discard prefix (RFC 6666); the port is the one registered for GUE.
    fn default() -> Self {
        Self {
            hash_seed: 0,
            drop_log: DropLog::Off,
            tunnel_v4: Ipv4Prefix { address: Ipv4Addr::new(172, 16, 0, 0), length: 16 },
            tunnel_v6: Ipv6Prefix { address: Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), length: 64 },
            gue_port: 6_080,
            max_flows: 262_144,
        }
    }
}

/// Whether the program logs each packet that it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropLog {
    /// The verifier removes the code.
    Off,
    /// For finding a fault: costs time for each dropped packet.
    On,
}

/// The loaded program.
pub struct Program {
    ebpf: aya::Ebpf,
    /// The kernel empties the map when nobody holds it any more.
    _stages: ProgramArray<MapData>,
    pub(super) attachments: Vec<Attachment>,
    /// Takes the program's log out of its ring while it lives.
    _log: Option<LogTask>,
}

impl Program {
    /// The program's handle.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        let program = self.ebpf.program_mut(ENTRY).context("the object holds the program `clb`")?;
        Ok(program.try_into()?)
    }

    /// The reports of clients that could not be answered.
    pub fn unresolved_clients(&mut self) -> anyhow::Result<UnresolvedClients> {
        UnresolvedClients::new(maps::take(&mut self.ebpf, "REPORTS")?)
    }
}

/// Loads the program and its maps into the kernel.
pub fn load(settings: Settings, capacity: &Capacity) -> anyhow::Result<(Program, Maps)> {
    let Settings { hash_seed, drop_log, tunnel_v4, tunnel_v6, gue_port, max_flows } = settings;
    let Capacity { listeners, backends, blocks, modes } = *capacity;
    let max_flows = if modes & ForwardingMode::FullNat.bit() == 0 { 1 } else { max_flows };
    let cpus = nr_cpus().map_err(|(file, error)| anyhow!("read {file}: {error}"))? as u32;
    let flow_hash = FlowHash::from_seed(hash_seed);
    let log_level: u8 = if drop_log == DropLog::On { u8::MAX } else { 0 };
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("FLOW_HASH", &flow_hash, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .override_global("MODES", &modes, true)
        .override_global("TUNNEL_V4", tunnel_v4.words().as_slice(), true)
        .override_global("TUNNEL_V6", tunnel_v6.words().as_slice(), true)
        .override_global("GUE_PORT", &u32::from(gue_port.to_be()), true)
        .override_global("CPUS", &cpus, true)
        .map_max_entries("FLOWS", max_flows)
        .map_max_entries("RETURNS", max_flows)
        // A listener, and its VIP.
        .map_max_entries("LISTENER_INDEXES", 2 * listeners)
        .map_max_entries("LISTENERS", listeners)
        .map_max_entries("LISTENER_TRAFFIC", listeners)
        .map_max_entries("BACKENDS", backends)
        .map_max_entries("BACKEND_TRAFFIC", backends)
        .map_max_entries("REPLIES", backends)
        .map_max_entries("SLOTS", blocks)
        .map_max_entries("ROUTES", ROUTES)
        .load(OBJECT)
        .map_err(|error| refused("create the maps of the XDP program", error))?;
    let maps = Maps::take(&mut ebpf)?;
    let log = match drop_log {
        DropLog::On => Some(LogTask::start(&mut ebpf)?),
        DropLog::Off => None,
    };
    let mut stages = ProgramArray::try_from(ebpf.take_map("PROGRAMS").context("the object holds the stages")?)
        .context("the stages are in a map of programs")?;
    for stage in Stage::ALL {
        let program = load_program(&mut ebpf, stage.program())?;
        stages.set(stage as u32, &*program.fd()?, 0).context("publish a stage of the XDP program")?;
    }
    load_program(&mut ebpf, ENTRY)?;
    Ok((Program { ebpf, _stages: stages, attachments: Vec::new(), _log: log }, maps))
}

/// Loads a program of an object.
pub fn load_program<'a>(ebpf: &'a mut aya::Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object holds the program `{name}`"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().map_err(|error| refused(&format!("load the XDP program `{name}`"), error))?;
    Ok(program)
}

/// The program that is attached.
const ENTRY: &str = "clb";

/// The program, as `cargo xtask build` compiled it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CLB_EBPF_OBJECT"));

/// Says what a kernel that refused may lack.
pub fn refused(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    let kernel = uname().map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned());
    anyhow!(error).context(format!(
        "{what}\n\
         help: clb needs Linux 6.1 or later with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT; this kernel is {kernel}"
    ))
}

/// Reads the program's log until it is dropped.
struct LogTask(tokio::task::JoinHandle<()>);

impl LogTask {
    fn start(ebpf: &mut aya::Ebpf) -> anyhow::Result<Self> {
        let logger = EbpfLogger::init(ebpf).context("open the program's log")?;
        #[expect(deprecated, reason = "its successor is unsafe; a logger owns one descriptor and never another")]
        let mut logger = AsyncFd::with_interest(logger, Interest::READABLE).context("watch the program's log")?;
        Ok(Self(tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        })))
    }
}

impl Drop for LogTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
