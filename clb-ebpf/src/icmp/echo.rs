//! Echo: a VIP answers, whoever holds it. Other addresses are not clb's to answer for.

use clb_common::{DropReason, checksum::Change};

use super::{
    Header, Icmp,
    embedded::{set_destination, set_source},
};
use crate::{
    link::{self, Link},
    listener,
    packet::Packet,
    parse::Datagram,
    verdict::Verdict,
};

/// Turns a request to a VIP into its reply.
#[inline(always)]
pub fn answer<F: Icmp>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Result<Verdict, DropReason> {
    let (client, vip) = (datagram.source(), datagram.destination());
    if !listener::is_vip(F::VERSION, vip) {
        return Ok(Verdict::Pass);
    }
    if link.length() as u32 + datagram.network.total_length() > packet.whole_length() {
        return Err(DropReason::TruncatedPacket);
    }
    if link.length() as u32 + datagram.network.total_length() < (datagram.payload.offset + size_of::<Header>()) as u32 {
        return Err(DropReason::TruncatedHeader);
    }
    let ethernet = link::back_to_sender(packet).ok_or(DropReason::TruncatedHeader)?;
    let network = packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?;
    // The pseudo-header is the same with the addresses exchanged.
    let _ = set_source(network, &vip);
    let _ = set_destination(network, &client);
    network.set_hop_limit(HOP_LIMIT);
    let header = packet.view_mut::<Header>(datagram.payload.offset).ok_or(DropReason::TruncatedHeader)?;
    let before = u16::from_ne_bytes([header.type_, header.code]);
    header.type_ = F::ECHO_REPLY;
    let change = Change::default().half_word(before, u16::from_ne_bytes([header.type_, header.code]));
    header.check = change.apply_to_any(u16::from_ne_bytes(header.check)).to_ne_bytes();
    link::write(packet, &link, ethernet, F::ETHER_TYPE).ok_or(DropReason::TruncatedHeader)?;
    Ok(Verdict::Answer)
}

const HOP_LIMIT: u8 = 64;
