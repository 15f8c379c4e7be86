//! What differs between IPv4 and IPv6. Every stage behind `parse` is written once, over this trait.

use clb_common::{
    Address, DropReason, FlowHash, Port, Stage, Version,
    checksum::{Change, Sum},
};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    packet::{Byte, Packet, Plain, Word},
    parse::{self, Fragment, Payload, SHORTEST_TRANSPORT},
    settings,
};

/// An IP header, of one family.
pub trait Family: Plain {
    const VERSION: Version;
    const ETHER_TYPE: EtherType;
    /// The programs for packets that are not plain, for fragments, for ICMP and for `full_nat`.
    const UNUSUAL_STAGE: Stage;
    const FRAGMENT_STAGE: Stage;
    const ICMP_STAGE: Stage;
    const FULL_NAT_STAGE: Stage;
    const FULL_NAT_REPLY_STAGE: Stage;
    const ERROR_TO_CLIENT_STAGE: Stage;
    const DELIVER_STAGE: Stage;
    /// The protocol number of the family's ICMP.
    const ICMP: u8;
    /// The number that says in an outer header that this family is inside.
    const ENCAPSULATED: u8;
    /// The protocol behind this header, if that is all there is between Ethernet and the transport header: a whole datagram
    /// without options or extension headers, and a frame of so many bytes behind this header's begin holds it.
    fn plain_protocol(&self, bytes: u32) -> Option<u8>;
    /// Whether a fragment that says so of what it holds may be one of TCP or UDP.
    fn may_hold_ports(protocol: u8) -> bool;
    /// What follows this header, which stands at `offset`, with its options.
    fn first_payload(&self, offset: usize) -> Option<Payload>;
    /// What follows this header and all extension headers.
    fn payload(&self, packet: &Packet, offset: usize) -> Option<Payload>;
    /// The length of the packet, with this header.
    fn total_length(&self) -> u32;
    fn source(&self) -> Address;
    fn destination(&self) -> Address;
    /// The hash of the flows of this client.
    fn flow_hash(flow_hash: &FlowHash, client: Address, port: Port) -> u32;
    /// Whether an outer header may have this source.
    fn is_tunnel_source(address: Address) -> bool;
    /// Rewrites the source address and patches this header's checksum; returns what the transport's must be patched by.
    fn set_source(&mut self, address: Address) -> Change;
    /// Rewrites the destination address likewise.
    fn set_destination(&mut self, address: Address) -> Change;
    /// Takes one from the TTL or hop limit, as whoever forwards a packet must.
    fn decrement_hop_limit(&mut self) -> Result<(), DropReason>;
    /// Sets the TTL or hop limit.
    fn set_hop_limit(&mut self, hop_limit: u8);
    /// The header's own checksum; IPv6 has none.
    fn checksum(&self) -> u16;
    /// The byte that holds DSCP and ECN.
    fn traffic_class(&self) -> u8;
    /// Identification, flags and fragment offset for an outer IPv4 header around this packet.
    fn outer_fragmentation(&self) -> [u16; 2];
    /// The sum of the whole packet, headers and all, if its checksums are right: the transport header's makes the rest
    /// known. `protocol` stands directly behind this header.
    fn known_sum(&self, protocol: u8) -> Sum;
}

pub type V4 = Ipv4Hdr;
pub type V6 = Ipv6Hdr;

impl Family for V4 {
    const VERSION: Version = Version::V4;
    const ETHER_TYPE: EtherType = EtherType::Ipv4;
    const UNUSUAL_STAGE: Stage = Stage::UnusualV4;
    const FRAGMENT_STAGE: Stage = Stage::FragmentV4;
    const ICMP_STAGE: Stage = Stage::IcmpV4;
    const FULL_NAT_STAGE: Stage = Stage::FullNatV4;
    const FULL_NAT_REPLY_STAGE: Stage = Stage::FullNatReplyV4;
    const ERROR_TO_CLIENT_STAGE: Stage = Stage::ErrorToClientV4;
    const DELIVER_STAGE: Stage = Stage::DeliverV4;
    const ICMP: u8 = 1;
    const ENCAPSULATED: u8 = 4;

    #[inline(always)]
    fn plain_protocol(&self, bytes: u32) -> Option<u8> {
        let whole = u16::from_ne_bytes(self.frags) & (MORE_FRAGMENTS | FRAGMENT_OFFSET).to_be() == 0;
        let length = self.total_length();
        (self.vihl == 0x45 && whole && length >= Self::LEN as u32 + SHORTEST_TRANSPORT && length <= bytes)
            .then_some(self.proto)
    }

    #[inline(always)]
    fn may_hold_ports(protocol: u8) -> bool {
        parse::protocol(protocol).is_some()
    }

    #[inline(always)]
    fn payload(&self, _packet: &Packet, offset: usize) -> Option<Payload> {
        self.first_payload(offset)
    }

    #[inline(always)]
    fn first_payload(&self, offset: usize) -> Option<Payload> {
        // Version 4, and a header of at least five words: the upper and the lower half of the first byte.
        if !(0x45..=0x4f).contains(&self.vihl) {
            return None;
        }
        let field = u16::from_be_bytes(self.frags);
        let fragment = (field & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0).then(|| Fragment {
            identification: u32::from(u16::from_ne_bytes(self.id)),
            is_first: field & FRAGMENT_OFFSET == 0,
        });
        Some(Payload { protocol: self.proto, offset: offset + usize::from(self.vihl & 0x0f) * 4, fragment })
    }

    #[inline(always)]
    fn total_length(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.tot_len))
    }

    #[inline(always)]
    fn source(&self) -> Address {
        Address::from_v4_word(u32::from_ne_bytes(self.src_addr))
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        Address::from_v4_word(u32::from_ne_bytes(self.dst_addr))
    }

    #[inline(always)]
    fn flow_hash(flow_hash: &FlowHash, client: Address, port: Port) -> u32 {
        flow_hash.hash([client.v4_word()], port.word())
    }

    #[inline(always)]
    fn is_tunnel_source(address: Address) -> bool {
        settings::is_tunnel_source_v4(address.v4_word())
    }

    #[inline(always)]
    fn set_source(&mut self, address: Address) -> Change {
        let change = replace(&mut self.src_addr, address);
        self.patch_checksum(change);
        change
    }

    #[inline(always)]
    fn set_destination(&mut self, address: Address) -> Change {
        let change = replace(&mut self.dst_addr, address);
        self.patch_checksum(change);
        change
    }

    #[inline(always)]
    fn decrement_hop_limit(&mut self) -> Result<(), DropReason> {
        if self.ttl <= 1 {
            return Err(DropReason::HopLimitExceeded);
        }
        self.set_hop_limit(self.ttl - 1);
        Ok(())
    }

    #[inline(always)]
    fn set_hop_limit(&mut self, hop_limit: u8) {
        let before = u16::from_ne_bytes([self.ttl, self.proto]);
        self.ttl = hop_limit;
        let after = u16::from_ne_bytes([self.ttl, self.proto]);
        self.patch_checksum(Change::default().half_word(before, after));
    }

    #[inline(always)]
    fn checksum(&self) -> u16 {
        u16::from_ne_bytes(self.check)
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn outer_fragmentation(&self) -> [u16; 2] {
        // RFC 2003, section 3.1: DF must be set if it is inside, and may be else. The identification of the inner packet is
        // as good as any, except a fragment's: what a router cut two of a datagram into could not be told apart.
        let may_be_cut =
            u16::from_ne_bytes(self.frags) & (DONT_FRAGMENT | MORE_FRAGMENTS | FRAGMENT_OFFSET).to_be() == 0;
        [u16::from_ne_bytes(self.id), if may_be_cut { 0 } else { DONT_FRAGMENT.to_be() }]
    }

    #[inline(always)]
    fn known_sum(&self, protocol: u8) -> Sum {
        // The header sums to nothing, and so do pseudo-header and segment.
        let payload_length = u16::from_be_bytes(self.tot_len).wrapping_sub(Self::LEN as u16);
        Sum::default()
            .without_word(u32::from_ne_bytes(self.src_addr))
            .without_word(u32::from_ne_bytes(self.dst_addr))
            .without_half_word(u16::from(protocol).to_be())
            .without_half_word(payload_length.to_be())
    }
}

/// The checksum of an IPv4 header. IPv6 has none.
trait HeaderChecksum {
    fn patch_checksum(&mut self, change: Change);
}

impl HeaderChecksum for Ipv4Hdr {
    #[inline(always)]
    fn patch_checksum(&mut self, change: Change) {
        self.check = change.apply(u16::from_ne_bytes(self.check)).to_ne_bytes();
    }
}

#[inline(always)]
fn replace(field: &mut [u8; 4], address: Address) -> Change {
    let before = u32::from_ne_bytes(*field);
    *field = address.v4_word().to_ne_bytes();
    Change::default().word(before, address.v4_word())
}

impl Family for V6 {
    const VERSION: Version = Version::V6;
    const ETHER_TYPE: EtherType = EtherType::Ipv6;
    const UNUSUAL_STAGE: Stage = Stage::UnusualV6;
    const FRAGMENT_STAGE: Stage = Stage::FragmentV6;
    const ICMP_STAGE: Stage = Stage::IcmpV6;
    const FULL_NAT_STAGE: Stage = Stage::FullNatV6;
    const FULL_NAT_REPLY_STAGE: Stage = Stage::FullNatReplyV6;
    const ERROR_TO_CLIENT_STAGE: Stage = Stage::ErrorToClientV6;
    const DELIVER_STAGE: Stage = Stage::DeliverV6;
    const ICMP: u8 = 58;
    const ENCAPSULATED: u8 = 41;

    #[inline(always)]
    fn plain_protocol(&self, bytes: u32) -> Option<u8> {
        let length = self.total_length();
        (self.vcf[0] >> 4 == 6 && length >= Self::LEN as u32 + SHORTEST_TRANSPORT && length <= bytes)
            .then_some(self.next_hdr)
    }

    #[inline(always)]
    fn may_hold_ports(protocol: u8) -> bool {
        // An extension header may come first, of which only the first fragment says what follows it.
        parse::protocol(protocol).is_some() || matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS)
    }

    #[inline(always)]
    fn first_payload(&self, offset: usize) -> Option<Payload> {
        (self.vcf[0] >> 4 == 6).then_some(Payload {
            protocol: self.next_hdr,
            offset: offset + Self::LEN,
            fragment: None,
        })
    }

    #[inline(always)]
    fn payload(&self, packet: &Packet, offset: usize) -> Option<Payload> {
        let mut payload = self.first_payload(offset)?;
        let mut walked = 0;
        while walked < MOST_EXTENSION_HEADERS {
            // Every extension header begins with the number of the next one and its own length (RFC 8200, section 4).
            let length = match payload.protocol {
                HOP_BY_HOP | DESTINATION_OPTIONS => {
                    let [_, length] = packet.view::<[Byte; 2]>(payload.offset)?;
                    usize::from(length.0) * 8 + 8
                }
                ROUTING => {
                    let [_, length, _, segments_left] = packet.view::<[Byte; 4]>(payload.offset)?;
                    // The packet has another destination yet.
                    if segments_left.0 != 0 {
                        return None;
                    }
                    usize::from(length.0) * 8 + 8
                }
                FRAGMENT => {
                    let [first, identification] = packet.view::<[Word; 2]>(payload.offset)?;
                    let [_, _, high, low] = first.0.to_ne_bytes();
                    payload.fragment = Some(Fragment {
                        identification: identification.0,
                        is_first: u16::from_be_bytes([high, low]) & FRAGMENT_OFFSET_V6 == 0,
                    });
                    8
                }
                _ => return Some(payload),
            };
            payload.protocol = packet.view::<Byte>(payload.offset)?.0;
            payload.offset += length;
            if payload.fragment.is_some_and(|fragment| !fragment.is_first) {
                return Some(payload);
            }
            walked += 1;
        }
        Some(payload)
    }

    #[inline(always)]
    fn total_length(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.payload_len)) + Self::LEN as u32
    }

    #[inline(always)]
    fn source(&self) -> Address {
        Address(words(&self.src_addr))
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        Address(words(&self.dst_addr))
    }

    #[inline(always)]
    fn flow_hash(flow_hash: &FlowHash, client: Address, port: Port) -> u32 {
        flow_hash.hash(client.0, port.word())
    }

    #[inline(always)]
    fn is_tunnel_source(address: Address) -> bool {
        settings::is_tunnel_source_v6(address.0)
    }

    #[inline(always)]
    fn set_source(&mut self, address: Address) -> Change {
        replace_v6(&mut self.src_addr, address)
    }

    #[inline(always)]
    fn set_destination(&mut self, address: Address) -> Change {
        replace_v6(&mut self.dst_addr, address)
    }

    #[inline(always)]
    fn decrement_hop_limit(&mut self) -> Result<(), DropReason> {
        if self.hop_limit <= 1 {
            return Err(DropReason::HopLimitExceeded);
        }
        self.hop_limit -= 1;
        Ok(())
    }

    #[inline(always)]
    fn set_hop_limit(&mut self, hop_limit: u8) {
        self.hop_limit = hop_limit;
    }

    #[inline(always)]
    fn checksum(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        (self.vcf[0] << 4) | (self.vcf[1] >> 4)
    }

    #[inline(always)]
    fn outer_fragmentation(&self) -> [u16; 2] {
        // Routers do not fragment IPv6, so they shall not fragment what it is in (RFC 4213, section 3.2.2).
        [0, DONT_FRAGMENT.to_be()]
    }

    #[inline(always)]
    fn known_sum(&self, protocol: u8) -> Sum {
        // Pseudo-header and segment sum to nothing. The addresses stand in the header and in the pseudo-header.
        let [a, b, c, d] = self.vcf;
        Sum::default()
            .word(u32::from_ne_bytes([a, b, c, d]))
            .half_word(u16::from_ne_bytes([self.next_hdr, self.hop_limit]))
            .without_half_word(u16::from(protocol).to_be())
    }
}

#[inline(always)]
fn words(octets: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

#[inline(always)]
fn replace_v6(field: &mut [u8; 16], address: Address) -> Change {
    let before = words(field);
    let after = address.0;
    let mut change = Change::default();
    let mut index = 0;
    while index < after.len() {
        change = change.word(before[index], after[index]);
        let [a, b, c, d] = after[index].to_ne_bytes();
        field[index * 4] = a;
        field[index * 4 + 1] = b;
        field[index * 4 + 2] = c;
        field[index * 4 + 3] = d;
        index += 1;
    }
    change
}

/// As many as RFC 8200, section 4.1, recommends before a transport header, without those of `IPsec`, and one to spare.
const MOST_EXTENSION_HEADERS: u32 = 6;

/// Extension headers (RFC 8200, section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// RFC 791, section 3.1: the flags and the offset share a field.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// RFC 8200, section 4.5: the offset without the flag behind it.
const FRAGMENT_OFFSET_V6: u16 = 0xfff8;
