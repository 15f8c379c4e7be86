//! Loading the program that lies in this binary, with its settings and the sizes of its maps.

use anyhow::{Context as _, anyhow};
use aya::{EbpfLoader, VerifierLogLevel, programs::Xdp};
use aya_log::EbpfLogger;
use clb_common::FlowHash;
use nix::sys::utsname::uname;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Capacity, ROUTES,
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
    pub(super) attachments: Vec<Attachment>,
    /// Takes the program's log out of its ring while it lives.
    _log: Option<LogTask>,
}

impl Program {
    /// The program's handle.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        let program = self.ebpf.program_mut("clb").context("the object holds the program `clb`")?;
        Ok(program.try_into()?)
    }

    /// The reports of clients that could not be answered.
    pub fn unresolved_clients(&mut self) -> anyhow::Result<UnresolvedClients> {
        UnresolvedClients::new(maps::take(&mut self.ebpf, "UNRESOLVED_CLIENTS")?)
    }
}

/// Loads the program and its maps into the kernel.
pub fn load(settings: Settings, capacity: &Capacity) -> anyhow::Result<(Program, Maps)> {
    let Settings { hash_seed, drop_log } = settings;
    let Capacity { listeners, backends, blocks } = *capacity;
    let flow_hash = FlowHash::from_seed(hash_seed);
    let log_level: u8 = if drop_log == DropLog::On { u8::MAX } else { 0 };
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("FLOW_HASH", &flow_hash, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("LISTENER_INDEXES", listeners)
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
    let mut program = Program { ebpf, attachments: Vec::new(), _log: log };
    program.xdp()?.load().map_err(|error| refused("load the XDP program", error))?;
    Ok((program, maps))
}

/// The program, as `cargo xtask build` compiled it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CLB_EBPF_OBJECT"));

/// Says what a kernel that refused may lack.
fn refused(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
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
