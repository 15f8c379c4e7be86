//! What is measured: packets, the program that is to handle them, and what has to become of them.
//!
//! Each mode has a program of its own, as on a load balancer with that mode only: a program knows no more than the modes of its
//! listeners. A scenario is of one number of flows, and all of one set are measured in turns.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use clb_common::{
    ForwardingMode::{self, Dsr, FullNat, Gue, Ipip, Nat},
    Protocol::{self, Tcp, Udp},
    Version,
    bench::Template,
};
use serde::{Deserialize, Serialize};

use super::{
    packet::{Packet, Segment},
    site::{self, Facts, Site},
    wrapper::{Run, Wrapper},
};
use crate::{control::DesiredListener, dataplane::ListenerId};

/// Everything loaded that is to be measured.
pub struct Scenarios {
    wrapper: Wrapper,
    sites: Vec<Site>,
    all: Vec<Scenario>,
    wanted: String,
}

/// One thing to measure.
pub struct Scenario {
    /// What it is about.
    pub group: Group,
    /// What it is.
    pub name: String,
    /// How many flows there are.
    pub flows: Flows,
    program: ProgramFd,
    packet: Packet,
    /// What becomes of each packet, if that is known.
    verdict: Option<u32>,
    listeners: u32,
    /// Where the next flows begin, if each is new.
    next: u32,
    /// No more packets in all runs together, since each takes room for good.
    room: Option<u32>,
}

/// How many flows the packets are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// So many, over and over.
    Number(u32),
    /// Each packet is the first of another.
    AllNew,
}

/// What a scenario is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The wrapper with a program that only passes. It is subtracted from everything.
    Floor,
    /// What each stage of the program adds.
    Ladder,
    /// Clients' packets of known flows.
    Request,
    /// Clients' packets of new flows.
    New,
    /// Backends' packets.
    Reply,
    /// Numbers of listeners and backends.
    Scale,
    /// Flows whose slots have got another owner.
    Moved,
    /// Packets for no listener.
    Elsewhere,
    /// ICMP.
    Icmp,
    /// Another program.
    Other,
}

/// Which of them to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// All.
    Full,
    /// Those that differ in more than numbers, for one flow: what a count of instructions tells apart.
    OneFlow,
}

impl Scenarios {
    /// Loads what these are, and tells what it is doing. Only scenarios whose names, with their flows, hold this text are kept.
    pub fn load(set: Set, wanted: &str, tell: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let mut loading = Loading { set, scenarios: Self::with_floor(wanted)? };
        for mode in ForwardingMode::ALL {
            tell(mode.name());
            loading.mode(mode)?;
        }
        tell("every mode");
        loading.every_mode()?;
        loading.elsewhere_of_two()?;
        tell("flows that move");
        loading.moved()?;
        for (listeners, backends, each) in SCALES {
            if set == Set::Full {
                tell(&format!("{} with {}", counted(listeners.into(), "listener"), counted(backends, "backend")));
                loading.scale(listeners, backends, each)?;
            }
        }
        let mut scenarios = loading.scenarios;
        // The order of loading is the cheap one, that of groups reads well.
        scenarios.all.sort_by_key(|scenario| scenario.group);
        Ok(scenarios)
    }

    /// Another XDP program, with packets for this listener of its, and for nobody.
    pub fn of_program(program: &ProgramFd, listener: ListenerId, wanted: &str) -> anyhow::Result<Self> {
        let ListenerId { vip, protocol, port } = listener;
        let version = Version::of(vip);
        let client = site::client(version);
        let mut scenarios = Self::with_floor(wanted)?;
        let mut add = |name: &str, to, segment, flows| {
            let packet = Packet::request(protocol, client, to, segment)?;
            scenarios.add(Scenario::new(Group::Other, name, program, packet, None)?.with(flows))
        };
        for flows in FLOWS {
            add("established", (vip, port).into(), Segment::Established, Flows::Number(flows))?;
        }
        add("all new", (vip, port).into(), Segment::Opening, Flows::AllNew)?;
        add("not for it", site::elsewhere(version), Segment::Established, Flows::Number(1_000))?;
        Ok(scenarios)
    }

    fn with_floor(wanted: &str) -> anyhow::Result<Self> {
        let (wrapper, wanted) = (Wrapper::load()?, wanted.to_owned());
        let mut scenarios = Self { wrapper, sites: Vec::new(), all: Vec::new(), wanted };
        let packet =
            Packet::request(Tcp, site::client(Version::V4), site::elsewhere(Version::V4), Segment::Established)?;
        for (group, name, program, verdict) in
            [(Group::Floor, "pass", "pass", PASS), (Group::Ladder, "transmit", "swap", TX)]
        {
            let program = scenarios.wrapper.bare(program)?.fd()?.try_clone()?;
            scenarios.add(Scenario::new(group, name, &program, packet.clone(), Some(verdict))?)?;
        }
        Ok(scenarios)
    }

    /// Takes up a scenario that is wanted, after a first packet of each flow: those of known flows are to find what that one left.
    fn add(&mut self, scenario: Scenario) -> anyhow::Result<()> {
        if scenario.group != Group::Floor && !scenario.label().contains(&self.wanted) {
            return Ok(());
        }
        self.all.push(scenario);
        let index = self.all.len() - 1;
        let warm_up = match self.all[index].flows {
            Flows::Number(flows) => flows,
            Flows::AllNew => 1,
        };
        self.measure(index, warm_up).map(drop)
    }

    /// The scenarios, the floor first.
    pub fn all(&self) -> &[Scenario] {
        &self.all
    }

    /// Runs so many packets of the scenario with this index, in one of so many rounds.
    pub fn measure_round(&mut self, index: usize, packets: u32, rounds: u32) -> anyhow::Result<Run> {
        let room = self.all[index].room.map_or(u32::MAX, |room| (room / rounds).max(1));
        self.measure(index, packets.min(room))
    }

    /// Runs so many packets of the scenario with this index.
    pub fn measure(&mut self, index: usize, packets: u32) -> anyhow::Result<Run> {
        let Self { wrapper, all, .. } = self;
        let scenario = &mut all[index];
        wrapper.measure(&scenario.program)?;
        wrapper.prepare(scenario.template()?)?;
        let run = wrapper.run(&scenario.packet, packets)?;
        scenario.next = scenario.next.wrapping_add(packets);
        if let Some(verdict) = scenario.verdict {
            ensure!(
                run.verdict == verdict,
                "{}: the program came to {}, which is not {}",
                scenario.label(),
                name_of(run.verdict),
                name_of(verdict)
            );
        }
        Ok(run)
    }

    /// Fails if a program dropped packets: what was measured was then not what it is called.
    pub fn check(&self) -> anyhow::Result<()> {
        for site in &self.sites {
            let drops = site.drops()?;
            ensure!(drops.is_empty(), "the program for {} dropped packets: {}", site.name, drops.join(", "));
        }
        Ok(())
    }

    /// What the programs are like.
    pub fn facts(&mut self) -> anyhow::Result<Vec<Facts>> {
        self.sites.iter_mut().map(Site::facts).collect()
    }
}

impl Scenario {
    fn new(
        group: Group,
        name: impl Into<String>,
        program: &ProgramFd,
        packet: Packet,
        verdict: Option<u32>,
    ) -> anyhow::Result<Self> {
        let program = program.try_clone()?;
        let (name, flows) = (name.into(), Flows::Number(1));
        Ok(Self { group, name, flows, program, packet, verdict, listeners: 1, next: 0, room: None })
    }

    fn with(self, flows: Flows) -> Self {
        Self { flows, ..self }
    }

    fn template(&self) -> anyhow::Result<Template> {
        Ok(match self.flows {
            Flows::Number(flows) => self.packet.template(flows, self.listeners)?,
            Flows::AllNew => Template { flow: self.next, ..self.packet.template(u32::MAX, self.listeners)? },
        })
    }

    /// Its name with the number of its flows.
    pub fn label(&self) -> String {
        format!("{}, {}", self.name, self.flows)
    }
}

impl std::fmt::Display for Flows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(flows) => formatter.write_str(&counted(*flows, "flow")),
            Self::AllNew => formatter.write_str("all new"),
        }
    }
}

/// Scenarios that become more.
struct Loading {
    set: Set,
    scenarios: Scenarios,
}

impl Loading {
    fn site(&mut self, name: &str, listeners: &BTreeMap<ListenerId, DesiredListener>) -> anyhow::Result<ProgramFd> {
        let max_flows = if self.set == Set::Full { MOST_FLOWS } else { FEW_FLOWS };
        let mut site = Site::load(name, listeners, max_flows, LOOPBACK)?;
        let program = site.fd()?;
        self.scenarios.sites.push(site);
        Ok(program)
    }

    fn last_site(&mut self) -> anyhow::Result<&mut Site> {
        self.scenarios.sites.last_mut().context("a program was loaded")
    }

    /// The numbers of flows of a scenario that may have so many.
    fn flows(&self, most: u32) -> impl Iterator<Item = u32> + use<> {
        let set = self.set;
        FLOWS.into_iter().filter(move |&flows| if set == Set::Full { flows <= most } else { flows == 1 })
    }

    fn add(
        &mut self,
        group: Group,
        name: &str,
        program: &ProgramFd,
        packet: &Packet,
        flows: u32,
    ) -> anyhow::Result<()> {
        let scenario = Scenario::new(group, name, program, packet.clone(), Some(TX))?;
        self.scenarios.add(scenario.with(Flows::Number(flows)))
    }

    /// A program for one mode, and everything that it does.
    fn mode(&mut self, mode: ForwardingMode) -> anyhow::Result<()> {
        let program = self.site(mode.name(), &site::one_of_each(&[mode]))?;
        self.requests_and_replies("", mode, &program)?;
        if self.set == Set::Full {
            self.new_flows(mode, &program)?;
        }
        if mode == Dsr {
            self.elsewhere("not for a listener", &program)?;
            self.icmp(&program)?;
            self.ladder(&program)?;
        }
        Ok(())
    }

    fn requests_and_replies(&mut self, prefix: &str, mode: ForwardingMode, program: &ProgramFd) -> anyhow::Result<()> {
        for version in VERSIONS {
            for protocol in [Tcp, Udp] {
                let of = format!("{}, {}", protocol.name(), family(version));
                let request = request(version, protocol, mode, Segment::Established)?;
                let name = format!("{prefix}{}, {of}", mode.name());
                for flows in self.flows(most_flows(mode)) {
                    self.add(Group::Request, &name, program, &request, flows)?;
                }
                let name = format!("{prefix}{} reply, {of}", mode.name());
                if mode == Nat {
                    let backend = site::backend(version, mode, 0);
                    let from = (backend.address, backend.port).into();
                    let reply = Packet::reply(protocol, from, site::client(version))?;
                    for flows in self.flows(u32::MAX) {
                        self.add(Group::Reply, &name, program, &reply, flows)?;
                    }
                }
                // Its flow is there, since packets of the client came by.
                if mode == FullNat && protocol == Tcp {
                    let answer = Packet::answer(&self.sent(&request)?)?;
                    self.add(Group::Reply, &name, program, &answer, 1)?;
                }
            }
        }
        Ok(())
    }

    /// What the program of the last site sends.
    fn sent(&mut self, packet: &Packet) -> anyhow::Result<Vec<u8>> {
        let mut sent = vec![0; packet.bytes.len()];
        let options =
            TestRunOptions { data_in: Some(&packet.bytes), data_out: Some(&mut sent), ..TestRunOptions::default() };
        let verdict = self.last_site()?.program()?.test_run(options)?.return_value;
        ensure!(verdict == TX, "a client's packet came to {}", name_of(verdict));
        Ok(sent)
    }

    fn new_flows(&mut self, mode: ForwardingMode, program: &ProgramFd) -> anyhow::Result<()> {
        for version in VERSIONS {
            let packet = request(version, Tcp, mode, Segment::Opening)?;
            let name = format!("{}, tcp, {}, SYN", mode.name(), family(version));
            let scenario = Scenario::new(Group::New, name, program, packet, Some(TX))?.with(Flows::AllNew);
            let room = (mode == FullNat).then_some(MOST_NEW);
            // Not those that are known by now.
            self.scenarios.add(Scenario { room, next: most_flows(FullNat), ..scenario })?;
        }
        Ok(())
    }

    fn elsewhere(&mut self, name: &str, program: &ProgramFd) -> anyhow::Result<()> {
        for version in VERSIONS {
            let to = site::elsewhere(version);
            let packet = Packet::request(Tcp, site::client(version), to, Segment::Established)?;
            let name = format!("{name}, {}", family(version));
            for flows in self.flows(1_000) {
                let scenario = Scenario::new(Group::Elsewhere, &name, program, packet.clone(), Some(PASS))?;
                self.scenarios.add(scenario.with(Flows::Number(flows)))?;
            }
        }
        Ok(())
    }

    fn icmp(&mut self, program: &ProgramFd) -> anyhow::Result<()> {
        for version in VERSIONS {
            let (client, vip) = (site::client(version), site::listener(version, Tcp, Dsr));
            let router = site::elsewhere(version).ip();
            let too_big = Packet::too_big(router, client, (vip.vip, vip.port).into())?;
            let family = family(version);
            self.add(Group::Icmp, &format!("echo to a VIP, {family}"), program, &Packet::echo(router, vip.vip)?, 1)?;
            self.add(Group::Icmp, &format!("error about a flow, dsr, {family}"), program, &too_big, 1)?;
        }
        Ok(())
    }

    fn ladder(&mut self, whole: &ProgramFd) -> anyhow::Result<()> {
        let packet = request(Version::V4, Tcp, Dsr, Segment::Established)?;
        for (name, program) in RUNGS {
            let program = self.last_site()?.rung(program)?;
            self.add(Group::Ladder, name, &program, &packet, 1)?;
        }
        self.add(Group::Ladder, "+ count (all of it)", whole, &packet, 1)
    }

    fn every_mode(&mut self) -> anyhow::Result<()> {
        let program = self.site("every mode", &site::one_of_each(&ForwardingMode::ALL))?;
        if self.set == Set::OneFlow {
            for mode in ForwardingMode::ALL {
                self.requests_and_replies("every mode: ", mode, &program)?;
            }
        }
        self.elsewhere("not for a listener, every mode loaded", &program)
    }

    fn elsewhere_of_two(&mut self) -> anyhow::Result<()> {
        let program = self.site("dsr and nat", &site::one_of_each(&[Dsr, Nat]))?;
        self.elsewhere("not for a listener, dsr and nat loaded", &program)
    }

    /// Established flows that stay at their backends although all slots have another owner: each is pinned.
    fn moved(&mut self) -> anyhow::Result<()> {
        let before = site::one_of_each(&[Dsr]);
        let program = self.site("flows that move", &before)?;
        let mut after = before;
        for (listener, desired) in &mut after {
            let others = (8..16).map(|number| (site::backend(Version::of(listener.vip), Dsr, number), 10));
            desired.weights.values_mut().for_each(|weight| *weight = 0);
            desired.weights.extend(others);
        }
        self.last_site()?.apply(&after)?;
        let packet = request(Version::V4, Tcp, Dsr, Segment::Established)?;
        for flows in self.flows(MOST_PINNED) {
            self.add(Group::Moved, "dsr, tcp, IPv4, slot moved, pinned", &program, &packet, flows)?;
        }
        Ok(())
    }

    /// So many listeners; packets for all of them in turn, and for the first only.
    fn scale(&mut self, listeners: u16, backends: u32, each: u32) -> anyhow::Result<()> {
        let all = site::many(listeners, backends, each);
        let size = format!("{}, {}", counted(listeners.into(), "listener"), counted(backends, "backend"));
        let program = self.site(&size, &all)?;
        let packet = request(Version::V4, Tcp, Dsr, Segment::Established)?;
        let mut turns = vec![(1, "")];
        if listeners > 1 {
            turns = vec![(1, ", packets for one"), (listeners.into(), ", packets for all")];
        }
        for (in_turn, which) in turns {
            for flows in [1_000, 1_000_000] {
                let name = format!("dsr, tcp, IPv4, {size}{which}");
                let scenario = Scenario::new(Group::Scale, name, &program, packet.clone(), Some(TX))?;
                let scenario = Scenario { listeners: in_turn, ..scenario };
                self.scenarios.add(scenario.with(Flows::Number(flows)))?;
            }
        }
        Ok(())
    }
}

fn request(version: Version, protocol: Protocol, mode: ForwardingMode, segment: Segment) -> anyhow::Result<Packet> {
    let ListenerId { vip, port, .. } = site::listener(version, protocol, mode);
    Packet::request(protocol, site::client(version), (vip, port).into(), segment)
}

/// How many flows there may be at most in a mode.
const fn most_flows(mode: ForwardingMode) -> u32 {
    match mode {
        // It remembers each.
        FullNat => 100_000,
        Dsr | Ipip | Gue | Nat => u32::MAX,
    }
}

const fn family(version: Version) -> &'static str {
    match version {
        Version::V4 => "IPv4",
        Version::V6 => "IPv6",
    }
}

/// A number of things, for a person.
pub fn counted(number: u32, what: &str) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    let plural = if number == 1 { "" } else { "s" };
    format!("{shown} {what}{plural}")
}

/// What an XDP program's code means.
pub fn name_of(verdict: u32) -> &'static str {
    ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"].get(verdict as usize).unwrap_or(&"no XDP code")
}

/// As XDP codes.
const PASS: u32 = 2;
const TX: u32 = 3;
/// The interface of test runs.
const LOOPBACK: u32 = 1;

const FLOWS: [u32; 4] = [1, 1_000, 100_000, 1_000_000];
const VERSIONS: [Version; 2] = [Version::V4, Version::V6];
/// Listeners, all backends, and how many of them each listener has.
const SCALES: [(u16, u32, u32); 5] =
    [(1, 2, 2), (1, 100, 100), (1, 1_000, 1_000), (100, 1_000, 100), (10_000, 1_000, 10)];
/// Names of the ladder's steps behind `transmit`, and of their programs.
const RUNGS: [(&str, &str); 4] = [
    ("+ parse", "ladder_parse"),
    ("+ listener", "ladder_listener"),
    ("+ select", "ladder_select"),
    ("+ forward", "ladder_forward"),
];
/// New flows of `full_nat` for a listener, in all runs: it remembers them.
const MOST_NEW: u32 = 100_000;
/// Room for them and for the known ones of each listener.
const MOST_FLOWS: u32 = 650_000;
/// Room for one of each.
const FEW_FLOWS: u32 = 1_000;
/// As many as get pins in one tick.
const MOST_PINNED: u32 = 10_000;
