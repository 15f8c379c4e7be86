//! Fragments of datagrams: the first one has the ports and leaves a note, the rest follow it.
//!
//! A fragment of TCP or UDP for a VIP without a note is dropped: nobody can say which listener it is for, or whether it is
//! for the host.
//! So the first fragment of a datagram for the host leaves a note, too, if its destination is a VIP. Other fragments without
//! a note pass: the host's own, and those of a backend's replies that came before their first.

use clb_common::{Address, DropReason, FRAGMENT_TICKS, FragmentKey, FragmentNote, FragmentWay};

use crate::{
    count,
    family::Family,
    forward::{self, Carried},
    link::Link,
    listener, maps,
    packet::Packet,
    parse::{Datagram, Fragment, Headers},
    reply, select, settings,
    verdict::{Outcome, Verdict},
};

/// Sends a fragment after the first one of its datagram.
#[inline(always)]
pub fn follow<F: Family>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Result<Verdict, DropReason> {
    let Some(fragment) = datagram.payload.fragment else { return Ok(Verdict::Pass) };
    let (source, destination) = (datagram.source(), datagram.destination());
    let key = FragmentKey::new(F::VERSION, source, destination, fragment.identification, datagram.payload.protocol);
    let note = maps::fragment_note(&key).filter(|note| maps::tick().wrapping_sub(note.tick) <= FRAGMENT_TICKS);
    let Some(note) = note else {
        let is_for_vip = F::may_hold_ports(datagram.payload.protocol) && listener::is_vip(F::VERSION, destination);
        return if is_for_vip { Err(DropReason::FragmentWithoutFirst) } else { Ok(Verdict::Pass) };
    };
    match note.way() {
        FragmentWay::Host => Ok(Verdict::Pass),
        FragmentWay::Backend => {
            let length = packet.whole_length();
            count::unless_sent(note.listener, length, to_backend(packet, link, datagram, note, length))
        }
        FragmentWay::Client => {
            let client = note.destination;
            let out = reply::Outgoing { packet, link, network: datagram.network, client, backend: note.backend };
            let Some(next_hop) = reply::next_hop(&out)? else { return Ok(Verdict::Pass) };
            check_length(packet, link, datagram)?;
            readdress::<F>(packet, link, note)?;
            reply::rewritten(&out, next_hop)
        }
    }
}

#[inline(always)]
fn to_backend<F: Family>(
    packet: &Packet,
    link: Link,
    datagram: &Datagram<F>,
    note: &FragmentNote,
    length: u32,
) -> Outcome {
    check_length(packet, link, datagram)?;
    let listener = &listener::at(note.listener).ok_or(DropReason::InconsistentMaps)?;
    let (selected, hash) = (select::at(note.backend)?, note.hash);
    let network = datagram.network;
    let out = forward::Outgoing { packet, length, link, network, listener, selected, hash, carried: Carried::Other };
    if forward::keeps_packets(listener) {
        return forward::as_it_came(&out);
    }
    let next_hop = forward::next_hop(&out, 0)?;
    readdress::<F>(packet, link, note)?;
    forward::rewritten(&out, next_hop)
}

/// Rewrites the addresses. There is no transport header to patch.
#[inline(always)]
fn readdress<F: Family>(packet: &Packet, link: Link, note: &FragmentNote) -> Result<(), DropReason> {
    let network = packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?;
    let _ = network.set_source(note.source);
    let _ = network.set_destination(note.destination);
    Ok(())
}

/// Leaves a note that the rest of a datagram goes to a backend, with these addresses.
#[inline(always)]
pub fn note_way_to_backend<F: Family>(
    out: &forward::Outgoing<F>,
    headers: &Headers<F>,
    source: Address,
    destination: Address,
) {
    if headers.fragment.is_none() {
        return;
    }
    let mut note = FragmentNote::new(FragmentWay::Backend, source, destination, maps::tick());
    note.listener = out.listener.index;
    note.backend = out.selected.index;
    note.hash = out.hash;
    leave(headers, &note);
}

/// Leaves a note that the rest of a datagram goes to a client, as from this VIP.
#[inline(always)]
pub fn note_way_to_client<F: Family>(out: &reply::Outgoing<F>, headers: &Headers<F>, vip: Address) {
    if headers.fragment.is_none() {
        return;
    }
    let mut note = FragmentNote::new(FragmentWay::Client, vip, out.client, maps::tick());
    note.backend = out.backend;
    leave(headers, &note);
}

/// Leaves a note that the rest of a datagram is the host's, if it could be taken for a listener's.
#[inline(always)]
pub fn note_way_to_host<F: Family>(headers: &Headers<F>) {
    if headers.fragment.is_none() {
        return;
    }
    let (source, destination) = (headers.network.source(), headers.network.destination());
    if listener::is_vip(F::VERSION, destination) {
        leave(headers, &FragmentNote::new(FragmentWay::Host, source, destination, maps::tick()));
    }
}

#[inline(always)]
fn leave<F: Family>(headers: &Headers<F>, note: &FragmentNote) {
    let Some(Fragment { identification, .. }) = headers.fragment else { return };
    let (source, destination) = (headers.network.source(), headers.network.destination());
    let key = FragmentKey::new(F::VERSION, source, destination, identification, headers.protocol as u8);
    if settings::records() {
        maps::note_fragment(&key, note);
    }
}

#[inline(always)]
fn check_length<F: Family>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Result<(), DropReason> {
    let length = link.length() as u32 + datagram.network.total_length();
    if length > packet.whole_length() {
        return Err(DropReason::TruncatedPacket);
    }
    if length < datagram.payload.offset as u32 {
        return Err(DropReason::TruncatedHeader);
    }
    Ok(())
}
