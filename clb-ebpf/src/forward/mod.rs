//! Stage 4: the packet as its listener's forwarding mode wants it, on its way to the next hop. A mode is a file.

mod dsr;
pub mod full_nat;
mod gue;
mod ipip;
mod nat;
mod outer;

use clb_common::{DropReason, ForwardingMode, NextHop, Version};

use crate::{
    count,
    family::Family,
    fragment,
    link::{self, Link},
    listener::{self, Found},
    maps,
    packet::{Offsets, Packet},
    parse::{self, Datagram, Headers},
    select::{self, Selected},
    settings,
    verdict::{Outcome, Verdict},
};

/// Sends a client's packet to its backend.
#[inline(always)]
pub fn to_backend<F: Family>(packet: &Packet, headers: &Headers<F>, listener: &Found) -> Outcome {
    let length = length(packet, headers.network, &headers.link);
    count::unless_sent(listener.index, length, select_and_send(packet, headers, listener, length))
}

#[inline(always)]
fn select_and_send<F: Family>(packet: &Packet, headers: &Headers<F>, listener: &Found, length: u32) -> Outcome {
    headers.check_lengths(packet)?;
    let hash = headers.flow_hash();
    let selected = select::backend(listener, hash, || headers.source(), || headers.marks(packet))?;
    let carried = match packet.offsets() {
        Offsets::Constant => gue::carried(packet, headers),
        Offsets::Variable => Carried::Other,
    };
    let (link, network) = (headers.link, headers.network);
    let out = Outgoing { packet, length, link, network, listener, selected, hash, carried };
    if settings::is(listener.table, ForwardingMode::Nat) {
        fragment::note_way_to_backend(&out, headers, headers.network.source(), selected.backend.address);
        return nat::send(&out, headers);
    }
    fragment::note_way_to_backend(&out, headers, headers.network.source(), headers.network.destination());
    as_it_came(&out)
}

/// A packet that has its backend.
pub struct Outgoing<'a, F> {
    pub packet: &'a Packet<'a>,
    /// Of the whole frame, as it came.
    pub length: u32,
    pub link: Link,
    pub network: &'a F,
    pub listener: &'a Found<'a>,
    pub selected: Selected<'a>,
    pub hash: u32,
    pub carried: Carried,
}

/// What stands behind the IP header: what the checksum of a header around the packet can be made from.
#[derive(Clone, Copy)]
pub enum Carried {
    /// A TCP segment or UDP datagram with a checksum, directly behind the IP header.
    Summed {
        /// Its protocol's number.
        protocol: u8,
    },
    /// Something else.
    Other,
}

/// Whether a mode leaves the client's packet as it came: it may then be a fragment or an ICMP message just as well.
#[inline(always)]
pub fn keeps_packets(listener: &Found) -> bool {
    !settings::is(listener.table, ForwardingMode::Nat) && !settings::is(listener.table, ForwardingMode::FullNat)
}

/// Sends a packet as it came, or in a header of its own. One that is not plain has a program for that, whatever it is: so the
/// stack of no other program has to hold outer headers.
#[inline(always)]
pub fn as_it_came<F: Family>(out: &Outgoing<F>) -> Result<Verdict, DropReason> {
    match out.packet.offsets() {
        Offsets::Constant => in_mode(out),
        Offsets::Variable => Ok(leave_to_deliver(out)),
    }
}

/// Leaves the packet to the program that delivers any.
#[inline(always)]
fn leave_to_deliver<F: Family>(out: &Outgoing<F>) -> Verdict {
    let Outgoing { listener, selected, hash, .. } = *out;
    maps::note_delivery(&Delivery { listener: listener.index, backend: selected.index, hash, filler: 0 });
    Verdict::Continue(F::DELIVER_STAGE)
}

/// What the program that delivers a packet has to know.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Delivery {
    listener: u32,
    backend: u32,
    hash: u32,
    filler: u32,
}

/// Delivers the packet that the program before this one selected a backend for.
#[inline(always)]
pub fn deliver<F: Family>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Outcome {
    let delivery = maps::noted_delivery().ok_or(DropReason::InconsistentMaps)?;
    let length = packet.whole_length();
    count::unless_sent(delivery.listener, length, deliver_noted(packet, link, datagram, delivery, length))
}

#[inline(always)]
fn deliver_noted<F: Family>(
    packet: &Packet,
    link: Link,
    datagram: &Datagram<F>,
    delivery: &Delivery,
    length: u32,
) -> Outcome {
    let Delivery { listener, backend, hash, .. } = *delivery;
    let listener = &listener::at(listener).ok_or(DropReason::InconsistentMaps)?;
    let selected = select::at(backend)?;
    let headers = parse::transport(packet, link, datagram);
    let carried = headers.map_or(Carried::Other, |headers| gue::carried(packet, &headers));
    in_mode(&Outgoing { packet, length, link, network: datagram.network, listener, selected, hash, carried })
}

#[inline(always)]
fn in_mode<F: Family>(out: &Outgoing<F>) -> Result<Verdict, DropReason> {
    if settings::is(out.listener.table, ForwardingMode::Ipip) {
        ipip::send(out)
    } else if settings::is(out.listener.table, ForwardingMode::Gue) {
        gue::send(out)
    } else {
        dsr::send(out)
    }
}

/// Sends a packet whose addresses were rewritten.
#[inline(always)]
pub fn rewritten<F: Family>(out: &Outgoing<F>, next_hop: &NextHop) -> Result<Verdict, DropReason> {
    let Outgoing { packet, length, link, selected, .. } = out;
    packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?.decrement_hop_limit()?;
    let verdict = link::forward(packet, link, next_hop, F::ETHER_TYPE)?;
    count::forwarded(selected.index, *length);
    Ok(verdict)
}

/// The backend's next hop, if the packet with so many more bytes fits the way there.
#[inline(always)]
pub fn next_hop<'a, F: Family>(out: &Outgoing<'a, F>, overhead: u32) -> Result<&'a NextHop, DropReason> {
    let next_hop = out.selected.backend.next_hop.current();
    // Nothing fits where no next hop is known, and only then is asked why.
    check_size(out.network.total_length(), overhead, next_hop)
        .map_err(|reason| if next_hop.is_resolved() { reason } else { DropReason::NextHopUnresolved })?;
    Ok(next_hop)
}

/// Whether a packet of this length fits the link to its next hop with so many bytes more.
#[inline(always)]
pub fn check_size(length: u32, overhead: u32, next_hop: &NextHop) -> Result<(), DropReason> {
    let mtu = u32::from(next_hop.mtu);
    if length + overhead > mtu {
        maps::note_mtu(mtu.saturating_sub(overhead));
        return Err(DropReason::PacketTooBig);
    }
    Ok(())
}

/// The length of a packet's frame. It is more than the linear part only if the IP header says so.
#[inline(always)]
pub fn length<F: Family>(packet: &Packet, network: &F, link: &Link) -> u32 {
    let linear = packet.linear_length();
    if link.length() as u32 + network.total_length() <= linear { linear } else { packet.whole_length() }
}

/// How many bytes a mode puts around a packet to this backend.
#[inline(always)]
fn overhead<F>(out: &Outgoing<F>, mode: ForwardingMode) -> u32 {
    match out.selected.backend.version() {
        Version::V4 => mode.overhead(Version::V4),
        Version::V6 => mode.overhead(Version::V6),
    }
}
