//! The link layer: the Ethernet header with up to two VLAN tags, as it came and as it leaves.

use clb_common::{DropReason, NextHop};
use network_types::eth::{EthHdr, EtherType};

use crate::{
    packet::{self, HalfWord, Packet, Word, join},
    verdict::Verdict,
};

/// The tags of a frame, and where its payload begins.
#[derive(Clone, Copy)]
pub struct Link {
    /// Each as it stands in the frame: the tag's type and what it says. The outer one first.
    pub tags: [u32; 2],
    /// How many there are.
    pub count: usize,
}

impl Link {
    /// A frame without tags.
    pub const UNTAGGED: Self = Self { tags: [0; 2], count: 0 };

    /// The length of the header: where the payload begins.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        EthHdr::LEN + self.count * TAG
    }
}

/// Whether an IP packet may stand behind this type: at once, or behind tags.
#[inline(always)]
pub const fn may_hold_ip(ether_type: u16) -> bool {
    ether_type == EtherType::Ipv4 as u16 || ether_type == EtherType::Ipv6 as u16 || is_tag(ether_type)
}

/// The frame's tags, and the type of what follows them.
#[inline(always)]
pub fn parse(packet: &Packet) -> Option<(Link, u16)> {
    let first = packet.view::<HalfWord>(ETHER_TYPE)?.0;
    if !is_tag(first) {
        return Some((Link::UNTAGGED, first));
    }
    let [outer, behind] = packet.view::<[Word; 2]>(ETHER_TYPE)?;
    let (outer, behind) = (outer.0, behind.0);
    let second = first_half(behind);
    if !is_tag(second) {
        return Some((Link { tags: [outer, 0], count: 1 }, second));
    }
    let third = packet.view::<HalfWord>(ETHER_TYPE + 2 * TAG)?.0;
    Some((Link { tags: [outer, behind], count: 2 }, third))
}

/// Sends a packet with the frame that it came in to a resolved next hop.
#[inline(always)]
pub fn forward(packet: &Packet, link: &Link, next_hop: &NextHop, ether_type: EtherType) -> Result<Verdict, DropReason> {
    if link.count != 0 || next_hop.vlan != 0 {
        return send(packet, link, next_hop, ether_type);
    }
    if let Some(addresses) = packet.view_mut::<[Word; 3]>(0) {
        *addresses = next_hop.ethernet.map(Word);
    }
    Ok(way_out(packet, next_hop))
}

/// Sends a packet whose payload stands where it stood, behind a header that is yet to be written.
#[inline(always)]
pub fn send(packet: &Packet, link: &Link, next_hop: &NextHop, ether_type: EtherType) -> Result<Verdict, DropReason> {
    let out = tags_out(packet, link, next_hop);
    let mut packet = *packet;
    if out.count != link.count {
        packet = packet.grow_front(out.length().cast_signed() - link.length().cast_signed())?;
    }
    write(&packet, &out, next_hop.ethernet, ether_type).ok_or(DropReason::NoHeadroom)?;
    Ok(way_out(&packet, next_hop))
}

/// Writes a whole header: a MAC address for each end, tags and type.
#[inline(always)]
pub fn write(packet: &Packet, link: &Link, ethernet: [u32; 3], ether_type: EtherType) -> Option<()> {
    *packet.view_mut::<[Word; 3]>(0)? = ethernet.map(Word);
    if link.count > 0 {
        *packet.view_mut(ETHER_TYPE)? = Word(link.tags[0]);
    }
    if link.count > 1 {
        *packet.view_mut(ETHER_TYPE + TAG)? = Word(link.tags[1]);
    }
    *packet.view_mut(link.length() - TYPE)? = HalfWord(ether_type as u16);
    Some(())
}

/// The MAC addresses of a frame, for an answer to its sender.
#[inline(always)]
pub fn back_to_sender(packet: &Packet) -> Option<[u32; 3]> {
    let [a, b, c] = packet.view::<[Word; 3]>(0)?;
    let (a, b, c) = (a.0, b.0, c.0);
    Some([
        join(second_half(b), first_half(c)),
        join(second_half(c), first_half(a)),
        join(second_half(a), first_half(b)),
    ])
}

/// The VLAN of the next hop, with the priority that the packet came with; where the next hop names none, a packet that
/// leaves by the interface that it came in by stays in its VLAN.
#[inline(always)]
fn tags_out(packet: &Packet, link: &Link, next_hop: &NextHop) -> Link {
    if next_hop.vlan != 0 {
        let priority = if link.count == 0 { 0 } else { second_half(link.tags[0]) & PRIORITY };
        let tag = join(EtherType::Ieee8021q as u16, priority | next_hop.vlan.to_be());
        return Link { tags: [tag, 0], count: 1 };
    }
    if next_hop.interface == packet.ingress_interface() { *link } else { Link::UNTAGGED }
}

#[inline(always)]
fn way_out(packet: &Packet, next_hop: &NextHop) -> Verdict {
    if next_hop.interface == packet.ingress_interface() {
        Verdict::Transmit
    } else {
        packet::redirect(next_hop.interface);
        Verdict::Redirect
    }
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    ether_type == EtherType::Ieee8021q as u16 || ether_type == EtherType::Ieee8021ad as u16
}

/// The first two bytes of a word, as they stand in the packet.
#[inline(always)]
const fn first_half(word: u32) -> u16 {
    let [a, b, ..] = word.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

/// The last two bytes of a word.
#[inline(always)]
const fn second_half(word: u32) -> u16 {
    let [.., c, d] = word.to_ne_bytes();
    u16::from_ne_bytes([c, d])
}

/// Where the type stands in a frame without tags, and the first tag in one with.
const ETHER_TYPE: usize = EthHdr::LEN - TYPE;
/// Bytes of a type, and of a tag with its type.
const TYPE: usize = 2;
const TAG: usize = 4;
/// The priority bits of a tag (IEEE 802.1Q).
const PRIORITY: u16 = 0xe000_u16.to_be();
