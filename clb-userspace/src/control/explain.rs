//! What would become of a packet, said in the words of the configuration.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, bail};
use clb_common::{DropReason, Protocol};
use etherparse::{LinkHeader, NetHeaders, PacketHeaders, TransportHeader};

use super::{NextHops, Unresolved, addresses, apply, desired, next_hops::describe, settings};
use crate::{
    api::{BoundBackend, Ending, Explanation, Question},
    config::{Config, Listener},
    dataplane::{Dataplane, DropLog, End, Outcome, Probe},
    network::Network,
    slots::BackendId,
};

/// Asks the data plane, and says what it answers.
pub fn explain(
    config: &Config,
    next_hops: &NextHops,
    dataplane: &Dataplane,
    packet: Question,
) -> anyhow::Result<Explanation> {
    let Question { from, to, payload, .. } = packet;
    let protocol = match packet.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => bail!("{other} is no protocol of a listener\nhelp: `tcp` or `udp`"),
    };
    let Outcome { end, listener, slot, backend, frame } = dataplane.explain(Probe { protocol, from, to, payload })?;
    let listener = listener.and_then(|id| config.listeners.iter().find(|listener| desired::id(listener) == id));
    let (ending, reason) = match end {
        End::Passed => (Ending::Passed, None),
        End::Sent => (Ending::Sent, None),
        End::Dropped(DropReason::PacketTooBig) => (Ending::Answered, Some(DropReason::PacketTooBig)),
        End::Dropped(reason) => (Ending::Dropped, Some(reason)),
    };
    let is_on_the_wire = matches!(ending, Ending::Sent | Ending::Answered);
    let backend = match (listener, backend) {
        (Some(listener), Some(backend)) => bound(listener, backend, next_hops),
        _ => None,
    };
    Ok(Explanation {
        packet,
        ending,
        reason: reason.map(|reason| reason.name().to_owned()),
        help: reason.map(|reason| reason.help().to_owned()),
        listener: listener.map(|listener| listener.name.clone()),
        mode: listener.map(|listener| listener.forwarding.name().to_owned()),
        slot: slot.map(|(slot, _)| slot),
        slots: slot.map(|(_, slots)| slots),
        backend,
        headers: if is_on_the_wire { headers(&frame, config.gue_port)? } else { Vec::new() },
    })
}

/// The same for a configuration that no agent serves: loads it into a program that is attached to nothing.
pub async fn without_agent(config: &Config, question: Question) -> anyhow::Result<Explanation> {
    super::privileges::check()?;
    let mut network = Network::connect().await.context("read the host's network")?;
    network.keep_resolved(addresses(config));
    NextHops::wait_for(&mut network, &addresses(config), Unresolved::Allow).await?;
    let next_hops = NextHops::of(&addresses(config), &network);
    let desired = desired::as_configured(config)?;
    let mut dataplane = Dataplane::load(settings(DropLog::Off, config), &desired)?;
    apply(DropLog::Off, config, &desired, &next_hops, &mut dataplane).await?;
    let resolve = |mode, address| next_hops.resolve(mode, address);
    dataplane.update_next_hops(&resolve, network.client_routes()).await?;
    explain(config, &next_hops, &dataplane, question)
}

fn bound(listener: &Listener, id: BackendId, next_hops: &NextHops) -> Option<BoundBackend> {
    let of = |backend: &&crate::config::Backend| backend.address == id.address && backend.port == id.port;
    let backend = listener.backends.iter().find(of)?;
    let next_hop = match next_hops.get(listener.forwarding, backend.address) {
        Some(Ok(hop)) => describe(hop),
        Some(Err(reason)) => reason.to_string(),
        None => "it was not looked for".to_owned(),
    };
    Some(BoundBackend {
        address: backend.address,
        port: backend.port,
        kind: backend.kind.name().to_owned(),
        cvm: backend.cvm.clone(),
        weight: backend.weight,
        next_hop,
    })
}

/// The headers of a frame, each as a line, from the outside to the inside.
fn headers(frame: &[u8], gue_port: u16) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut parsed = PacketHeaders::from_ethernet_slice(frame).context("read the frame that the program made")?;
    if let Some(ethernet) = parsed.link.clone().and_then(LinkHeader::ethernet2) {
        lines.push(format!("ethernet {} -> {}", mac(ethernet.source), mac(ethernet.destination)));
    }
    loop {
        lines.extend(parsed.net.as_ref().and_then(network));
        lines.extend(parsed.transport.as_ref().map(transport));
        let payload = parsed.payload.slice();
        let inner = match (&parsed.transport, &parsed.net) {
            (Some(TransportHeader::Udp(udp)), _) if udp.destination_port == gue_port => {
                lines.push("gue, variant 0".to_owned());
                payload.get(GUE..)
            }
            (None, Some(_)) => Some(payload),
            _ => None,
        };
        match inner.map(PacketHeaders::from_ip_slice) {
            Some(Ok(inner)) => parsed = inner,
            _ => return Ok(lines),
        }
    }
}

fn network(header: &NetHeaders) -> Option<String> {
    match header {
        NetHeaders::Ipv4(header, _) => {
            let (from, to) = (Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination));
            Some(format!("ipv4 {from} -> {to}, ttl {}", header.time_to_live))
        }
        NetHeaders::Ipv6(header, _) => {
            let (from, to) = (Ipv6Addr::from(header.source), Ipv6Addr::from(header.destination));
            Some(format!("ipv6 {from} -> {to}, hop limit {}", header.hop_limit))
        }
        NetHeaders::Arp(_) => None,
    }
}

fn transport(header: &TransportHeader) -> String {
    match header {
        TransportHeader::Tcp(header) => format!("tcp {} -> {}", header.source_port, header.destination_port),
        TransportHeader::Udp(header) => format!("udp {} -> {}", header.source_port, header.destination_port),
        TransportHeader::Icmpv4(header) => format!("icmp {:?}", header.icmp_type),
        TransportHeader::Icmpv6(header) => format!("icmpv6 {:?}", header.icmp_type),
        TransportHeader::Igmp(_) => "igmp".to_owned(),
    }
}

fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The length of the GUE header without options.
const GUE: usize = 4;
