//! What becomes of a packet, without sending it: the program itself is run on it, by an instance that shares the tables and
//! remembers nothing. What it counts is how it says what it did.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail};
use aya::programs::{TestRun as _, TestRunOptions};
use clb_common::{BackendTraffic, DropReason, Endpoint, FlowHash, Protocol, Traffic, VerdictCounter, slot_of};
use etherparse::PacketBuilder;

use super::{Dataplane, ListenerId, maps};
use crate::slots::BackendId;

/// A packet that a client might send.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub from: SocketAddr,
    /// The VIP, or any other address.
    pub to: SocketAddr,
    /// How many bytes the segment or datagram carries.
    pub payload: u16,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The end of its way.
    pub end: End,
    /// The listener that it was for.
    pub listener: Option<ListenerId>,
    /// Its slot in that listener's table, and how many there are.
    pub slot: Option<(u32, u32)>,
    /// The backend that it went to, or that its slot names.
    pub backend: Option<BackendId>,
    /// The frame as it left.
    pub frame: Vec<u8>,
}

/// The end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To the host's own network stack.
    Passed,
    /// On the wire.
    Sent,
    /// Nowhere.
    Dropped(DropReason),
}

impl Dataplane {
    /// Runs the program on a packet without sending it.
    pub fn explain(&self, probe: Probe) -> anyhow::Result<Outcome> {
        let mut instance = self.program.explaining()?;
        let packet = frame(&probe)?;
        let mut left = vec![0; packet.len() + ROOM];
        let options = TestRunOptions { data_in: Some(&packet), data_out: Some(&mut left), ..TestRunOptions::default() };
        let length = instance.xdp()?.test_run(options).context("run the program on a packet")?.data_size_out;
        left.truncate(length as usize);

        let verdicts = maps::take(&mut instance.ebpf, "VERDICTS")?;
        let listener_traffic = maps::take(&mut instance.ebpf, "LISTENER_TRAFFIC")?;
        let backend_traffic = maps::take(&mut instance.ebpf, "BACKEND_TRAFFIC")?;
        let mut end = End::Sent;
        let reasons = DropReason::ALL.iter().map(|&reason| (VerdictCounter::Dropped(reason), End::Dropped(reason)));
        for (counter, counted) in reasons.chain([(VerdictCounter::Passed, End::Passed)]) {
            if maps::sum::<u64>(&verdicts, counter.index())? > 0 {
                end = counted;
            }
        }
        let hash = FlowHash::from_seed(self.program.settings().hash_seed);
        let mut outcome = Outcome { end, listener: None, slot: None, backend: None, frame: left };
        let id = ListenerId { vip: probe.to.ip(), protocol: probe.protocol, port: probe.to.port() };
        let Some(live) = self.listeners.get(&id) else { return Ok(outcome) };
        // A packet for a listener is counted for the backend that it is sent to, or else for the listener.
        let mut was_for_it = maps::sum::<Traffic>(&listener_traffic, live.index)?.packets > 0;
        let mut sent_to = None;
        for (&backend, known) in &live.backends {
            if maps::sum::<BackendTraffic>(&backend_traffic, known.index)?.forwarded.packets > 0 {
                (was_for_it, sent_to) = (true, Some(backend));
            }
        }
        if !was_for_it {
            return Ok(outcome);
        }
        outcome.listener = Some(id);
        if live.table.slots > 0 {
            let slot = slot_of(hash.of(&Endpoint::of(probe.protocol, probe.from)), live.table.slots);
            outcome.slot = Some((slot, live.table.slots));
            outcome.backend = live.owner(&self.maps, slot)?;
        }
        // A flow that `full_nat` remembers need not be at its slot's backend.
        outcome.backend = sent_to.or(outcome.backend);
        Ok(outcome)
    }
}

/// The first packet of a flow, as it might come in: a TCP segment opens a connection.
fn frame(Probe { protocol, from, to, payload }: &Probe) -> anyhow::Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(ROUTER, CLB);
    let network = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), HOP_LIMIT),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), HOP_LIMIT),
        _ => bail!("{from} and {to} are of two families\nhelp: give both addresses as IPv4, or both as IPv6"),
    };
    let payload = vec![0; usize::from(*payload)];
    let mut bytes = Vec::new();
    match protocol {
        Protocol::Tcp => network.tcp(from.port(), to.port(), 1, 64_000).syn().write(&mut bytes, &payload),
        Protocol::Udp => network.udp(from.port(), to.port()).write(&mut bytes, &payload),
    }
    .context("make a packet")?;
    Ok(bytes)
}

/// As much as any mode puts around a packet.
const ROOM: usize = 128;
const HOP_LIMIT: u8 = 64;
/// Locally administered MAC addresses: of whoever sends the packet here, and of the interface.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLB: [u8; 6] = [2, 0, 0, 0, 0, 2];
