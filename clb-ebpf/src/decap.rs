//! The XDP program of `clb decap`: takes `ipip` and `gue` off for a backend without a tunnel device.
//!
//! Only what comes from a trusted source to an address of this host is taken off, and goes on to the host's own stack with the
//! MAC addresses and tags that it came with. Everything else passes as it came: also outer headers with options or extension
//! headers, outer fragments, and outer headers that are wrong, which are the stack's matter. The packet inside keeps its DSCP.
//! Its ECN field becomes what RFC 6040 says.
//!
//! GUE is taken as variant 0 with data, without flags and options. The UDP checksum around it is not looked at, over either
//! family: it protects nothing that the checksums inside do not (RFC 6936, section 4).

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macro makes functions of its own, without docs")]
#![expect(clippy::needless_pass_by_value, reason = "the program macro hands the context over by value")]

#[expect(dead_code, reason = "the load balancer also sends")]
mod link;
#[expect(dead_code, reason = "the load balancer also sums and redirects")]
mod packet;
#[expect(dead_code, reason = "the load balancer also sends")]
mod verdict;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::{HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use clb_common::{
    Address, Protocol, Version,
    checksum::{Change, Sum},
    decap::{ECN, RECEIVED_COUNTERS, Received, TunnelEnd, ecn},
};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    link::Link,
    packet::{Offsets, Packet, Word},
};

/// The UDP port of `gue`, as it stands in a packet. The agent sets it.
#[unsafe(no_mangle)]
static GUE_PORT: Global<u32> = Global::new(0);

/// The prefixes of trusted outer sources. The agent sets the real sizes of this map and the next.
#[btf_map]
static SOURCES: LpmTrie<TunnelEnd, u32, 1> = LpmTrie::new();

/// The addresses of this host.
#[btf_map]
static OWN: HashMap<TunnelEnd, u32, 1> = HashMap::new();

/// Packets by what became of them: see `Received`.
#[btf_map]
static RECEIVED: PerCpuArray<u64, RECEIVED_COUNTERS> = PerCpuArray::new();

/// The program that `clb decap` attaches.
#[xdp(frags)]
pub fn decap(context: XdpContext) -> u32 {
    let Some(received) = receive(&Packet::new(&context, Offsets::Variable)) else { return xdp_action::XDP_PASS };
    if let Some(packets) = RECEIVED.get_ptr_mut(received as u32) {
        // SAFETY: a program is not preempted by another XDP program on its CPU, so nobody else holds this element.
        unsafe { *packets += 1 };
    }
    match received {
        Received::Ipip | Received::Gue | Received::RefusedSource => xdp_action::XDP_PASS,
        Received::Malformed | Received::Congested => xdp_action::XDP_DROP,
    }
}

/// What becomes of a packet, if it is one in a tunnel to this host.
#[inline(always)]
fn receive(packet: &Packet) -> Option<Received> {
    let (link, ether_type) = link::parse(packet)?;
    let outer = if ether_type == EtherType::Ipv4 as u16 {
        Outer::v4(packet, link.length())?
    } else if ether_type == EtherType::Ipv6 as u16 {
        Outer::v6(packet, link.length())?
    } else {
        return None;
    };
    let (kind, payload) = if outer.protocol == Protocol::Udp as u8 {
        let udp_length = udp_to_gue_port(packet, &outer)?;
        if !is_from_trusted_source_to_here(&outer)? {
            return Some(Received::RefusedSource);
        }
        let Some(payload) = gue(packet, &outer, udp_length) else { return Some(Received::Malformed) };
        (Received::Gue, payload)
    } else if is_ip(outer.protocol) {
        if !is_from_trusted_source_to_here(&outer)? {
            return Some(Received::RefusedSource);
        }
        (Received::Ipip, Payload { protocol: outer.protocol, offset: outer.offset, length: outer.length })
    } else {
        return None;
    };
    match take_off(packet, &link, &payload, outer.traffic_class & ECN) {
        Ok(()) => Some(kind),
        Err(received) => Some(received),
    }
}

/// What an outer header says.
struct Outer {
    source: TunnelEnd,
    destination: TunnelEnd,
    protocol: u8,
    traffic_class: u8,
    /// Where its payload begins in the packet.
    offset: usize,
    /// The length of its payload.
    length: u32,
}

impl Outer {
    /// Of a whole IPv4 packet, if there are no options and nothing is wrong with the header.
    #[inline(always)]
    fn v4(packet: &Packet, offset: usize) -> Option<Self> {
        let [a, b, c, source, destination] = packet.view::<[Word; 5]>(offset)?;
        let words = [a.0, b.0, c.0, source.0, destination.0];
        let sum = words.iter().fold(Sum::default(), |sum, &word| sum.word(word));
        let [version, traffic_class, high, low] = words[0].to_ne_bytes();
        let [_, _, fragment_high, fragment_low] = words[1].to_ne_bytes();
        let [_, protocol, ..] = words[2].to_ne_bytes();
        let is_whole = u16::from_be_bytes([fragment_high, fragment_low]) & FRAGMENT == 0;
        if version != VERSION_AND_FIVE_WORDS || !is_whole || sum.checksum() != 0 {
            return None;
        }
        let total_length = u32::from(u16::from_be_bytes([high, low]));
        let length = total_length.checked_sub(Ipv4Hdr::LEN as u32)?;
        is_there(packet, offset, total_length)?;
        Some(Self {
            source: TunnelEnd::new(Version::V4, Address::from_v4_word(words[3])),
            destination: TunnelEnd::new(Version::V4, Address::from_v4_word(words[4])),
            protocol,
            traffic_class,
            offset: offset + Ipv4Hdr::LEN,
            length,
        })
    }

    /// Of an IPv6 packet.
    #[inline(always)]
    fn v6(packet: &Packet, offset: usize) -> Option<Self> {
        let [first, second, a, b, c, d, e, f, g, h] = packet.view::<[Word; 10]>(offset)?;
        let [version, traffic_class, ..] = first.0.to_ne_bytes();
        let [high, low, protocol, _] = second.0.to_ne_bytes();
        if version >> 4 != 6 {
            return None;
        }
        let length = u32::from(u16::from_be_bytes([high, low]));
        is_there(packet, offset, length + Ipv6Hdr::LEN as u32)?;
        Some(Self {
            source: TunnelEnd::new(Version::V6, Address([a.0, b.0, c.0, d.0])),
            destination: TunnelEnd::new(Version::V6, Address([e.0, f.0, g.0, h.0])),
            protocol,
            traffic_class: version << 4 | traffic_class >> 4,
            offset: offset + Ipv6Hdr::LEN,
            length,
        })
    }
}

/// Whether a packet holds as many bytes as its IP header says.
#[inline(always)]
fn is_there(packet: &Packet, offset: usize, total_length: u32) -> Option<()> {
    (offset as u32 + total_length <= packet.whole_length()).then_some(())
}

/// Whether a packet to this host comes from a source that is trusted; nothing if it is to another host.
#[inline(always)]
fn is_from_trusted_source_to_here(outer: &Outer) -> Option<bool> {
    // SAFETY: only whether there is a value is of interest.
    unsafe { OWN.get(outer.destination) }?;
    let AlignedKey { key, .. } = &AlignedKey { _filler: 0, key: Key::new(TunnelEnd::BITS, outer.source) };
    Some(SOURCES.get(key).is_some())
}

/// What lies in a tunnel.
struct Payload {
    protocol: u8,
    /// Where it begins in the packet.
    offset: usize,
    /// How many bytes there are for it.
    length: u32,
}

/// What the UDP header says of its length, if it is one to the port of `gue`.
#[inline(always)]
fn udp_to_gue_port(packet: &Packet, outer: &Outer) -> Option<u32> {
    let [ports, length] = packet.view::<[Word; 2]>(outer.offset)?;
    let [_, _, high, low] = ports.0.to_ne_bytes();
    if u16::from_ne_bytes([high, low]) != GUE_PORT.load() as u16 {
        return None;
    }
    let [high, low, ..] = length.0.to_ne_bytes();
    Some(u32::from(u16::from_be_bytes([high, low])))
}

/// What is in a plain GUE packet of variant 0.
#[inline(always)]
fn gue(packet: &Packet, outer: &Outer, udp_length: u32) -> Option<Payload> {
    let [variant_and_length, protocol, flags_high, flags_low] =
        packet.view::<Word>(outer.offset + UdpHdr::LEN)?.0.to_ne_bytes();
    let is_plain = [variant_and_length, flags_high, flags_low] == [0; 3];
    let length = udp_length.checked_sub(SHIM as u32)?;
    (is_plain && is_ip(protocol) && udp_length <= outer.length).then_some(Payload {
        protocol,
        offset: outer.offset + SHIM,
        length,
    })
}

#[inline(always)]
const fn is_ip(protocol: u8) -> bool {
    matches!(protocol, IPV4 | IPV6)
}

/// Gives the packet inside the ECN field that it must have, and moves the frame's header to it.
#[inline(always)]
fn take_off(packet: &Packet, link: &Link, payload: &Payload, outer_ecn: u8) -> Result<(), Received> {
    let ether_type = if payload.protocol == IPV4 {
        mark_v4(packet, payload, outer_ecn)?;
        EtherType::Ipv4
    } else {
        mark_v6(packet, payload, outer_ecn)?;
        EtherType::Ipv6
    };
    let [a, b, c] = packet.view::<[Word; 3]>(0).ok_or(Received::Malformed)?;
    let ethernet = [a.0, b.0, c.0];
    let outer_length = payload.offset - link.length();
    let packet = packet.grow_front(-outer_length.cast_signed()).map_err(|_| Received::Malformed)?;
    link::write(&packet, link, ethernet, ether_type).ok_or(Received::Malformed)
}

#[inline(always)]
fn mark_v4(packet: &Packet, payload: &Payload, outer_ecn: u8) -> Result<(), Received> {
    let header = packet.view_mut::<Ipv4Hdr>(payload.offset).ok_or(Received::Malformed)?;
    let header_length = u32::from(header.vihl & 0x0f) * 4;
    let total_length = u32::from(u16::from_be_bytes(header.tot_len));
    if !(VERSION_AND_FIVE_WORDS..=VERSION_AND_FIFTEEN_WORDS).contains(&header.vihl)
        || total_length < header_length
        || total_length > payload.length
    {
        return Err(Received::Malformed);
    }
    let before = header.tos;
    let field = ecn(before & ECN, outer_ecn).ok_or(Received::Congested)?;
    let after = before & !ECN | field;
    if after != before {
        header.tos = after;
        let word = |traffic_class| u16::from_ne_bytes([header.vihl, traffic_class]);
        let change = Change::default().half_word(word(before), word(after));
        header.check = change.apply(u16::from_ne_bytes(header.check)).to_ne_bytes();
    }
    Ok(())
}

#[inline(always)]
fn mark_v6(packet: &Packet, payload: &Payload, outer_ecn: u8) -> Result<(), Received> {
    let header = packet.view_mut::<Ipv6Hdr>(payload.offset).ok_or(Received::Malformed)?;
    let total_length = u32::from(u16::from_be_bytes(header.payload_len)) + Ipv6Hdr::LEN as u32;
    if header.vcf[0] >> 4 != 6 || total_length > payload.length {
        return Err(Received::Malformed);
    }
    // The field's two bits stand before the flow label (RFC 8200, section 3).
    let before = header.vcf[1];
    let field = ecn(before >> 4 & ECN, outer_ecn).ok_or(Received::Congested)?;
    header.vcf[1] = before & !(ECN << 4) | field << 4;
    Ok(())
}

/// Puts the key's address on a boundary of eight bytes, which the verifier wants on the stack.
#[repr(C, align(8))]
struct AlignedKey {
    _filler: u32,
    key: Key<TunnelEnd>,
}

/// The UDP header, and the GUE header without options.
const SHIM: usize = UdpHdr::LEN + 4;
/// The protocol numbers of IP in IP (RFC 2003, RFC 2473).
const IPV4: u8 = 4;
const IPV6: u8 = 41;
/// The first byte of an IPv4 header without options, and of one with all that it can have.
const VERSION_AND_FIVE_WORDS: u8 = 0x45;
const VERSION_AND_FIFTEEN_WORDS: u8 = 0x4f;
/// More fragments, and the offset (RFC 791, section 3.1).
const FRAGMENT: u16 = 0x3fff;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
