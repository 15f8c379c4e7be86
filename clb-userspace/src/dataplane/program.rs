//! Loading the program that lies in this binary, with its settings and the sizes of its maps.
//!
//! It is loaded with the modes that are in use; the verifier removes the others. When another one is to be used, another
//! instance takes the place of the one that runs, with the same maps: counters, flows and slot tables stay.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{MapData, ProgramArray},
    programs::Xdp,
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use clb_common::{FlowHash, ForwardingMode, OPENING_PINS, PINS, Stage, places};
use nix::sys::utsname::uname;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

use super::{
    ROUTES,
    attach::Attachment,
    flows::FlowTable,
    home::Home,
    maps::{self, Maps},
    pins::PinTable,
    reports::Reports,
    space::Capacity,
    tunnel::{words_v4, words_v6},
};
use crate::prefix::Prefix;

/// Load-time settings of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Keys the flow hash.
    pub hash_seed: u64,
    /// Whether dropped packets are logged.
    pub drop_log: DropLog,
    /// Where outer headers come from, in `ipip` and `gue`.
    pub tunnel_v4: Prefix,
    /// The same for IPv6.
    pub tunnel_v6: Prefix,
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
            tunnel_v4: Prefix::new(Ipv4Addr::new(172, 16, 0, 0).into(), 16),
            tunnel_v6: Prefix::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).into(), 64),
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

/// The loaded program, and where it is attached.
pub struct Program {
    instance: Instance,
    settings: Settings,
    modes: u32,
    capacity: Capacity,
    /// Or why other instances cannot have the same maps.
    pub(super) home: anyhow::Result<Home>,
    pub(super) attachments: Vec<Attachment>,
}

/// The object, once loaded with settings. Its handles keep the programs.
pub struct Instance {
    pub ebpf: Ebpf,
    /// The kernel empties the map when nobody holds it any more.
    _stages: ProgramArray<MapData>,
    /// What they are kept under.
    stages_number: Option<u32>,
    /// Takes the program's log out of its ring while it lives.
    _log: Option<LogTask>,
}

/// The instance that was replaced. Packets may still be in it for a moment: not to be dropped before.
#[must_use]
pub struct Replaced {
    _instance: Instance,
    /// The flows, if none could be remembered before.
    pub flows: Option<FlowTable>,
}

impl Program {
    /// Loads the program into the kernel, with the maps that its home has, or new ones.
    pub fn load(
        settings: Settings,
        capacity: Capacity,
        home: anyhow::Result<Home>,
    ) -> anyhow::Result<(Self, Maps, FlowTable, PinTable)> {
        let modes = capacity.modes;
        let mut instance = Instance::load(&settings, modes, &capacity, home.as_ref().ok(), Purpose::Serve)?;
        if let Ok(home) = &home {
            home.add_maps(&instance.ebpf, modes)?;
        }
        let maps = Maps::take(&mut instance.ebpf)?;
        let flows = FlowTable::take(&mut instance.ebpf)?;
        let pins = PinTable::take(&mut instance.ebpf)?;
        let program = Self { instance, settings, modes, capacity, home, attachments: Vec::new() };
        Ok((program, maps, flows, pins))
    }

    /// Whether packets find all these modes, with these settings.
    pub fn is_as(&self, settings: &Settings, modes: u32) -> bool {
        // The flows have the room that they had at first.
        let settings = Settings { max_flows: self.settings.max_flows, ..*settings };
        self.settings == settings && modes & !self.modes == 0
    }

    /// The settings that it was loaded with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Puts another instance, with the same maps, in the place of this one. On each interface that is one atomic change: no
    /// packet passes by. Fails before the first of them if the kernel does not take the other instance.
    pub fn replace(&mut self, settings: Settings, modes: u32) -> anyhow::Result<Replaced> {
        let modes = self.modes | modes;
        let home = match &self.home {
            Ok(home) => home,
            Err(error) => bail!(
                "another instance of the XDP program cannot have the maps of the one that runs: {error:#}\n\
                 help: start clb again with the new file, or start it with CAP_SYS_ADMIN"
            ),
        };
        let mut instance = Instance::load(&settings, modes, &self.capacity, Some(home), Purpose::Serve)?;
        home.add_maps(&instance.ebpf, modes)?;
        let adds_flows = self.modes & ForwardingMode::FullNat.bit() == 0;
        let flows = if adds_flows { Some(FlowTable::take(&mut instance.ebpf)?) } else { None };
        for attachment in std::mem::take(&mut self.attachments) {
            let Attachment { interface, index, mode, reason, link } = attachment;
            let link = self.instance.xdp()?.take_link(link)?;
            match instance.xdp()?.attach_to_link(link) {
                Ok(link) => self.attachments.push(Attachment { interface, index, mode, reason, link }),
                // The loop attaches to it again: see `Attachment`s that are lacking.
                Err(error) => {
                    warn!("{interface} lost its XDP program when another took its place: {error}");
                    let _ = fs::remove_file(home.link(index, mode));
                }
            }
        }
        let old = std::mem::replace(&mut self.instance, instance);
        (self.settings, self.modes) = (settings, modes);
        Ok(Replaced { _instance: old, flows })
    }

    /// Lets go of the stages of other instances. No packet may be in them any more.
    pub fn forget_other_stages(&self) -> anyhow::Result<()> {
        match (&self.home, self.instance.stages_number) {
            (Ok(home), Some(number)) => home.remove_stages_but(number),
            _ => Ok(()),
        }
    }

    /// Another instance, which has the same maps but remembers nothing and counts for itself.
    pub fn explaining(&self) -> anyhow::Result<Instance> {
        let home = self.home.as_ref().map_err(|error| {
            anyhow!(
                "a program that explains cannot have the maps of the one that runs: {error:#}\n\
                 help: start clb with CAP_SYS_ADMIN, which it gives up before it serves"
            )
        })?;
        let settings = Settings { drop_log: DropLog::Off, ..self.settings };
        Instance::load(&settings, self.modes, &self.capacity, Some(home), Purpose::Explain)
    }

    /// The program's handle.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        self.instance.xdp()
    }

    /// A program of the object that only the benchmark runs, with the same maps.
    pub fn rung(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        load_program(&mut self.instance.ebpf, name)
    }

    /// What the program reports. To be taken once.
    pub fn reports(&mut self) -> anyhow::Result<Reports> {
        Reports::new(maps::take(&mut self.instance.ebpf, "REPORTS")?)
    }
}

impl Instance {
    /// Loads the object; with maps that are there already, where there are such.
    fn load(
        settings: &Settings,
        modes: u32,
        capacity: &Capacity,
        home: Option<&Home>,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let Settings { hash_seed, drop_log, tunnel_v4, tunnel_v6, gue_port, max_flows } = *settings;
        let Capacity { listeners, backends, blocks, transitions, modes: _ } = *capacity;
        let max_flows = if modes & ForwardingMode::FullNat.bit() == 0 { 1 } else { max_flows };
        let cpus = nr_cpus().map_err(|(file, error)| anyhow!("read {file}: {error}"))? as u32;
        let flow_hash = FlowHash::from_seed(hash_seed);
        // The capacity is twice what is in use at first: a listener and its VIP, then, and half of the backends.
        let (listener_places, reply_places) = (places(listeners), places(backends / 2));
        let (tunnel_v4, tunnel_v6) = (words_v4(tunnel_v4), words_v6(tunnel_v6));
        let gue_port = u32::from(gue_port.to_be());
        let log_level: u8 = if drop_log == DropLog::On { u8::MAX } else { 0 };
        let is_wanted = |name: &str| purpose == Purpose::Serve || !COUNTERS.contains(&name);
        let mut shared = home.map_or_else(|| Ok(Vec::new()), Home::maps)?;
        shared.retain(|(name, _)| is_wanted(name));
        let explains = u32::from(purpose == Purpose::Explain);
        let mut loader = EbpfLoader::new();
        for (name, path) in &shared {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("FLOW_HASH", &flow_hash, true)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .override_global("MODES", &modes, true)
            .override_global("EXPLAINS", &explains, true)
            .override_global("TUNNEL_V4", tunnel_v4.as_slice(), true)
            .override_global("TUNNEL_V6", tunnel_v6.as_slice(), true)
            .override_global("GUE_PORT", &gue_port, true)
            .override_global("CPUS", &cpus, true)
            .map_max_entries("FLOWS", max_flows)
            .map_max_entries("RETURNS", max_flows)
            .override_global("PLACES", [listener_places - 1, reply_places - 1].as_slice(), true)
            .map_max_entries("LISTENER_INDEXES", listener_places)
            .map_max_entries("REPLY_INDEXES", reply_places)
            .map_max_entries("LISTENERS", listeners)
            .map_max_entries("LISTENER_TRAFFIC", listeners)
            .map_max_entries("FORMER_TRAFFIC", listeners)
            .map_max_entries("BACKENDS", backends)
            .map_max_entries("BACKEND_TRAFFIC", backends)
            .map_max_entries("REPLIES", backends)
            .map_max_entries("SLOTS", blocks)
            .map_max_entries("TRANSITIONS", transitions)
            .map_max_entries("PINS", PINS)
            .map_max_entries("OPENING_PINS", OPENING_PINS)
            .map_max_entries("ROUTES", ROUTES)
            .load(OBJECT)
            .map_err(|error| refused("create the maps of the XDP program", error))?;
        let log = match drop_log {
            DropLog::On => Some(LogTask::start(&mut ebpf)?),
            DropLog::Off => None,
        };
        for name in Stage::ALL.map(Stage::program).into_iter().chain([ENTRY]) {
            load_program(&mut ebpf, name)?;
        }
        let stages = ebpf.take_map("PROGRAMS").context("the object holds the stages")?;
        let home = home.filter(|_| purpose == Purpose::Serve);
        let stages_number = home.map(|home| home.add_stages(&stages)).transpose()?;
        let mut stages = ProgramArray::try_from(stages).context("the stages are in a map of programs")?;
        for stage in Stage::ALL {
            let program: &Xdp = ebpf.program(stage.program()).context("the object holds its stages")?.try_into()?;
            stages.set(stage as u32, program.fd()?, 0).context("publish a stage of the XDP program")?;
        }
        Ok(Self { ebpf, _stages: stages, stages_number, _log: log })
    }

    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        let program = self.ebpf.program_mut(ENTRY).context("the object holds the program `clb`")?;
        Ok(program.try_into()?)
    }
}

/// Loads a program of an object.
pub fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object holds the program `{name}`"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().map_err(|error| refused(&format!("load the XDP program `{name}`"), error))?;
    Ok(program)
}

/// What an instance is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    Explain,
}

/// The maps that an instance which explains has to itself: what it counts, and what its programs tell each other.
const COUNTERS: [&str; 9] = [
    "VERDICTS",
    "EVENTS",
    "LISTENER_TRAFFIC",
    "BACKEND_TRAFFIC",
    "WALKED",
    "DELIVERY",
    "TOO_BIG",
    "SOURCES_TAKEN",
    "REPORTS",
];

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
    fn start(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
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
