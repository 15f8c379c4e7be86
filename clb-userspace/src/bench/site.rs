//! A load balancer to measure: the program and its maps as the agent loads them, attached to nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context as _;
use aya::programs::{ProgramFd, Xdp};
use clb_common::{ForwardingMode, NextHop, Protocol, Version};
use serde::{Deserialize, Serialize};

use super::packet::OWN;
use crate::{
    control::{DesiredListener, plan},
    dataplane::{Dataplane, ListenerId, Settings},
    prefix::Prefix,
    slots::BackendId,
};

/// A loaded program with its listeners.
pub struct Site {
    /// What it is called in the list of programs.
    pub name: String,
    dataplane: Dataplane,
    runtime: tokio::runtime::Runtime,
    next_hop: NextHop,
}

/// What a program is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it knows.
    pub name: String,
    /// Instructions that the verifier walked over to accept its entry.
    pub verified: u32,
    /// BPF instructions of the entry, when the verifier had removed what is not in use.
    pub instructions: u32,
    /// Bytes of machine code of the entry.
    pub machine_code: u32,
}

impl Site {
    /// Loads a program for these listeners, which can remember so many flows. What it sends leaves by this interface.
    pub fn load(
        name: &str,
        listeners: &BTreeMap<ListenerId, DesiredListener>,
        max_flows: u32,
        interface: u32,
    ) -> anyhow::Result<Self> {
        let settings = Settings { hash_seed: 7, max_flows, ..Settings::default() };
        let mut dataplane = Dataplane::load(settings, listeners)?;
        let sources: Vec<IpAddr> = (1..=32).flat_map(|number| [source_v4(number), source_v6(number)]).collect();
        dataplane.set_sources(&sources)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        let next_hop = NextHop::new(BACKEND, OWN, interface, 1_500);
        let mut site = Self { name: name.to_owned(), dataplane, runtime, next_hop };
        site.apply(listeners)?;
        Ok(site)
    }

    /// Changes the listeners, as a reload does.
    pub fn apply(&mut self, listeners: &BTreeMap<ListenerId, DesiredListener>) -> anyhow::Result<()> {
        let Self { dataplane, runtime, next_hop, .. } = self;
        let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let routes = everywhere.map(|address| (Prefix::new(address, 0), *next_hop));
        let steps = plan(listeners, &dataplane.actual());
        runtime.block_on(async {
            dataplane.apply(steps, &|_, _| *next_hop).await?;
            dataplane.update_next_hops(&|_, _| *next_hop, routes.into()).await
        })
    }

    /// The program.
    pub fn program(&mut self) -> anyhow::Result<&mut Xdp> {
        self.dataplane.xdp()
    }

    /// The program's handle.
    pub fn fd(&mut self) -> anyhow::Result<ProgramFd> {
        Ok(self.dataplane.xdp()?.fd()?.try_clone()?)
    }

    /// The handle of a program that is cut off behind a stage.
    pub fn rung(&mut self, name: &str) -> anyhow::Result<ProgramFd> {
        Ok(self.dataplane.rung(name)?.fd()?.try_clone()?)
    }

    /// How many packets were dropped so far, and why.
    pub fn drops(&self) -> anyhow::Result<Vec<String>> {
        let dropped = self.dataplane.counters()?.dropped.into_iter().filter(|&(_, packets)| packets > 0);
        Ok(dropped.map(|(reason, packets)| format!("{packets} {}", reason.name())).collect())
    }

    /// What the program is like.
    pub fn facts(&mut self) -> anyhow::Result<Facts> {
        let info = self.dataplane.xdp()?.info().context("ask for the program's facts")?;
        Ok(Facts {
            name: self.name.clone(),
            verified: info.verified_instruction_count().unwrap_or_default(),
            instructions: info.size_translated().unwrap_or_default() / INSTRUCTION,
            machine_code: info.size_jitted(),
        })
    }
}

/// A listener of each family and protocol in each of these modes, with eight backends each.
pub fn one_of_each(modes: &[ForwardingMode]) -> BTreeMap<ListenerId, DesiredListener> {
    let mut listeners = BTreeMap::new();
    for &mode in modes {
        for version in [Version::V4, Version::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let weights = (0..8).map(|number| (backend(version, mode, number), WEIGHT)).collect();
                listeners.insert(listener(version, protocol, mode), DesiredListener::new(mode, SLOTS, weights));
            }
        }
    }
    listeners
}

/// Listeners at neighbouring ports of one address, in `dsr`, with so many of all backends each.
pub fn many(listeners: u16, backends: u32, each: u32) -> BTreeMap<ListenerId, DesiredListener> {
    let mode = ForwardingMode::Dsr;
    let first = listener(Version::V4, Protocol::Tcp, mode);
    let slots = if listeners > 100 { FEW_SLOTS } else { SLOTS };
    let bound = |number: u32| {
        let numbers = (0..each).map(move |other| (number * each + other) % backends);
        numbers.map(|number| (backend(Version::V4, mode, number), WEIGHT)).collect()
    };
    let one = |number: u16| {
        let id = ListenerId { port: first.port + number, ..first };
        (id, DesiredListener::new(mode, slots, bound(number.into())))
    };
    (0..listeners).map(one).collect()
}

/// The listener of a family, protocol and mode.
pub fn listener(version: Version, protocol: Protocol, mode: ForwardingMode) -> ListenerId {
    let vip = match version {
        Version::V4 => Ipv4Addr::new(203, 0, 113, 10).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
    };
    ListenerId { vip, protocol, port: 8_000 + mode as u16 }
}

/// A backend of a mode. Ports are translated where the mode can do that.
pub fn backend(version: Version, mode: ForwardingMode, number: u32) -> BackendId {
    let address = match version {
        Version::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 1, 11).to_bits() + number).into(),
        Version::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 0x11 + number as u16).into(),
    };
    let translated = matches!(mode, ForwardingMode::Nat | ForwardingMode::FullNat);
    BackendId { address, port: 8_000 + mode as u16 + if translated { 100 } else { 0 } }
}

/// A client.
pub fn client(version: Version) -> SocketAddr {
    let address: IpAddr = match version {
        Version::V4 => Ipv4Addr::new(198, 51, 100, 10).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10).into(),
    };
    SocketAddr::new(address, 40_000)
}

/// An address that is no listener's.
pub fn elsewhere(version: Version) -> SocketAddr {
    let address: IpAddr = match version {
        Version::V4 => Ipv4Addr::new(192, 0, 2, 7).into(),
        Version::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 7).into(),
    };
    SocketAddr::new(address, 80)
}

fn source_v4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 9, number).into()
}

fn source_v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 9, number.into()).into()
}

const SLOTS: u32 = 65_537;
/// Of a listener that is one of thousands.
const FEW_SLOTS: u32 = 1_021;
const WEIGHT: u8 = 10;
const BACKEND: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Bytes of a BPF instruction.
const INSTRUCTION: u32 = 8;
