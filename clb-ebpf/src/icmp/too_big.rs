//! Tells the sender of a packet that does not fit which packets do: fragmentation needed (RFC 1191), or packet too big
//! (RFC 4443). Path MTU discovery depends on it.
//!
//! The packet becomes the message that quotes it. It is sent whether or not IPv4's DF is set: clb cannot fragment, and a
//! sender that learns the MTU does so itself.

use clb_common::{Address, Event, Version, checksum::Sum};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::{FRAGMENTATION_NEEDED, Icmp, PACKET_TOO_BIG, UNREACHABLE};
use crate::{
    count,
    family::{Family, V4, V6},
    link::{self, Link},
    maps,
    packet::{Byte, Packet, Word, join},
};

/// Makes the message of a packet that is as it came. Returns nothing if it is not to be sent.
#[inline(always)]
pub fn answer(packet: &Packet) -> Option<()> {
    let (link, ether_type) = link::parse(packet)?;
    let is_v4 = ether_type == EtherType::Ipv4 as u16;
    let may_be_told = if is_v4 { may_be_told::<V4>(packet, &link)? } else { may_be_told::<V6>(packet, &link)? };
    if !may_be_told {
        return None;
    }
    let Some(mtu) = maps::noted_mtu() else {
        count::event(Event::TooBigSuppressed);
        return None;
    };
    if is_v4 {
        v4(packet, &link, mtu)?;
    } else {
        v6(packet, &link, mtu)?;
    }
    count::event(Event::TooBigSent);
    Some(())
}

/// No error is sent about an error, about a fragment of IPv4 behind the first, or to what is not one host (RFC 1122,
/// section 3.2.2; RFC 4443, section 2.4 (e)).
#[inline(always)]
fn may_be_told<F: Icmp>(packet: &Packet, link: &Link) -> Option<bool> {
    let network = packet.view::<F>(link.length())?;
    // An error behind extension headers is not known as such.
    let payload = network.first_payload(link.length())?;
    let is_later = payload.fragment.is_some_and(|fragment| !fragment.is_first);
    let is_error = !is_later
        && payload.protocol == F::ICMP
        && packet.view::<Byte>(payload.offset).is_none_or(|kind| F::is_error(kind.0));
    let tells_later = match F::VERSION {
        Version::V4 => false,
        Version::V6 => true,
    };
    Some(F::is_one_host(network.source()) && !is_error && (tells_later || !is_later))
}

#[inline(always)]
fn v4(packet: &Packet, link: &Link, mtu: u32) -> Option<()> {
    let network = packet.view::<V4>(link.length())?;
    let (from, to) = (network.destination().v4_word(), network.source().v4_word());
    let packet = quote(packet, link, Ipv4Hdr::LEN, EtherType::Ipv4)?;
    let total_length = (Ipv4Hdr::LEN + MESSAGE) as u16;
    let header = |checksum| {
        [
            join(u16::from_ne_bytes([0x45, 0]), total_length.to_be()),
            join(0, DONT_FRAGMENT.to_be()),
            join(u16::from_ne_bytes([HOP_LIMIT, V4::ICMP]), checksum),
            from,
            to,
        ]
    };
    let checksum = header(0).iter().fold(Sum::default(), |sum, &word| sum.word(word)).checksum();
    *packet.view_mut(link.length())? = header(checksum).map(Word);
    let offset = link.length() + Ipv4Hdr::LEN;
    message(&packet, offset, [UNREACHABLE, FRAGMENTATION_NEEDED], mtu, Sum::default())
}

#[inline(always)]
fn v6(packet: &Packet, link: &Link, mtu: u32) -> Option<()> {
    let network = packet.view::<V6>(link.length())?;
    let (Address(from), Address(to)) = (network.destination(), network.source());
    let packet = quote(packet, link, Ipv6Hdr::LEN, EtherType::Ipv6)?;
    let length = (MESSAGE as u16).to_be();
    let ([a, b, c, d], [e, f, g, h]) = (from, to);
    let second = join(length, u16::from_ne_bytes([V6::ICMP, HOP_LIMIT]));
    *packet.view_mut(link.length())? = [VERSION_6.to_be(), second, a, b, c, d, e, f, g, h].map(Word);
    let pseudo = [a, b, c, d, e, f, g, h].iter().fold(Sum::default(), |sum, &word| sum.word(word));
    let pseudo = pseudo.half_word(length).half_word(u16::from(V6::ICMP).to_be());
    message(&packet, link.length() + Ipv6Hdr::LEN, [PACKET_TOO_BIG, 0], mtu, pseudo)
}

/// Cuts the packet to what is quoted of it, and puts room for the IP and the ICMP header before that.
#[inline(always)]
fn quote<'a>(packet: &Packet<'a>, link: &Link, network_length: usize, ether_type: EtherType) -> Option<Packet<'a>> {
    let ethernet = link::back_to_sender(packet)?;
    let packet = packet.truncate((link.length() + QUOTED) as u32)?;
    let packet = packet.grow_front((network_length + HEADER).cast_signed()).ok()?;
    link::write(&packet, link, ethernet, ether_type)?;
    Some(packet)
}

/// Writes the ICMP header and its checksum.
#[inline(always)]
fn message(packet: &Packet, offset: usize, kind: [u8; 2], mtu: u32, pseudo: Sum) -> Option<()> {
    let kind = u16::from_ne_bytes(kind);
    *packet.view_mut(offset)? = [Word(join(kind, 0)), Word(mtu.to_be())];
    let checksum = pseudo.word(packet.sum::<[Word; MESSAGE / 4]>(offset)?).checksum();
    *packet.view_mut(offset)? = Word(join(kind, checksum));
    Some(())
}

/// How much of the packet is quoted: its headers with the longest IPv4 options, and more than a header behind them.
const QUOTED: usize = 128;
/// The ICMP header, and the whole message.
const HEADER: usize = 8;
const MESSAGE: usize = HEADER + QUOTED;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
const VERSION_6: u32 = 6 << 28;
