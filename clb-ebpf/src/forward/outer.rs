//! The outer IP header of `ipip` and `gue`, of the backend's family.
//!
//! Its source varies with the flow, so that a receiver that spreads packets over its CPUs by addresses spreads these. DSCP
//! and ECN are those of the inner packet (RFC 6040, section 4.1), and so is DF (RFC 2003, section 3.1); it is always set
//! around a fragment.

use clb_common::{Address, Backend, DropReason, Version, checksum::Sum};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::Outgoing;
use crate::{
    family::Family,
    packet::{Packet, Word, join},
    settings,
};

/// What the outer header says.
pub struct Outer {
    pub version: Version,
    pub source: Address,
    /// The length of what it carries.
    pub payload_length: u16,
}

impl Outer {
    /// The type of the frame.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        match self.version {
            Version::V4 => EtherType::Ipv4,
            Version::V6 => EtherType::Ipv6,
        }
    }

    /// The header's length.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        match self.version {
            Version::V4 => Ipv4Hdr::LEN,
            Version::V6 => Ipv6Hdr::LEN,
        }
    }
}

/// Puts an IP header around a packet, with room for `shim` bytes between the two: the packet then begins with as many
/// undefined bytes as its frame's header had.
#[inline(always)]
pub fn put_around<'a, F: Family>(
    out: &Outgoing<'a, F>,
    protocol: u8,
    shim: usize,
) -> Result<(Packet<'a>, Outer), DropReason> {
    let Outgoing { packet, link, network, selected, hash, .. } = *out;
    let backend: &Backend = selected.backend;
    let class = network.traffic_class();
    let [identification, flags] = network.outer_fragmentation();
    // The check against the MTU bounds it.
    let payload_length = (network.total_length() + shim as u32) as u16;
    packet.view_mut::<F>(link.length()).ok_or(DropReason::TruncatedHeader)?.decrement_hop_limit()?;
    match backend.version() {
        Version::V4 => {
            let packet = packet.grow_front((Ipv4Hdr::LEN + shim).cast_signed())?;
            let source = settings::tunnel_source_v4(hash);
            let total_length = (payload_length + Ipv4Hdr::LEN as u16).to_be();
            let words = [
                join(u16::from_ne_bytes([0x45, class]), total_length),
                join(identification, flags),
                join(u16::from_ne_bytes([HOP_LIMIT, protocol]), 0),
                source,
                backend.address.v4_word(),
            ];
            let checksum = words.iter().fold(Sum::default(), |sum, &word| sum.word(word)).checksum();
            let [a, b, _, d, e] = words;
            let c = join(u16::from_ne_bytes([HOP_LIMIT, protocol]), checksum);
            *packet.view_mut(link.length()).ok_or(DropReason::NoHeadroom)? = [a, b, c, d, e].map(Word);
            Ok((packet, Outer { version: Version::V4, source: Address::from_v4_word(source), payload_length }))
        }
        Version::V6 => {
            let packet = packet.grow_front((Ipv6Hdr::LEN + shim).cast_signed())?;
            let source = settings::tunnel_source_v6(hash);
            let Address(destination) = backend.address;
            // The flow label tells flows apart where only the header is looked at (RFC 6438).
            let first = 6 << 28 | u32::from(class) << 20 | hash & FLOW_LABEL;
            let second = join(payload_length.to_be(), u16::from_ne_bytes([protocol, HOP_LIMIT]));
            let header = packet.view_mut::<[Word; 10]>(link.length()).ok_or(DropReason::NoHeadroom)?;
            let ([a, b, c, d], [e, f, g, h]) = (source, destination);
            *header = [first.to_be(), second, a, b, c, d, e, f, g, h].map(Word);
            Ok((packet, Outer { version: Version::V6, source: Address(source), payload_length }))
        }
    }
}

const HOP_LIMIT: u8 = 64;
const FLOW_LABEL: u32 = 0x000f_ffff;
