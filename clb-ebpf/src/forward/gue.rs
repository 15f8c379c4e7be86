//! `gue`: the packet in UDP (Generic UDP Encapsulation, variant 0, as Linux's `fou` module receives it).
//!
//! The source port varies with the flow. Over IPv4 the outer checksum is left out, as RFC 768 allows. Over IPv6 it must be
//! there (RFC 8200, section 8.1): it follows from the inner one without a look at the payload, or is summed up where there
//! is none.

use clb_common::{DropReason, ForwardingMode, Protocol, Version, checksum::Sum};
use network_types::udp::UdpHdr;

use super::{Carried, Outgoing, next_hop, outer, overhead};
use crate::{
    count,
    family::Family,
    link,
    packet::{HalfWord, Packet, Word, join, sum_of},
    parse::Headers,
    settings, transport,
    verdict::Verdict,
};

/// Sends a packet to its backend in UDP.
#[inline(always)]
pub fn send<F: Family>(out: &Outgoing<F>) -> Result<Verdict, DropReason> {
    let next_hop = next_hop(out, overhead(out, ForwardingMode::Gue))?;
    let (packet, outer) = outer::put_around(out, Protocol::Udp as u8, SHIM)?;
    let shim_offset = out.link.length() + outer.length();
    let source = FIRST_SOURCE_PORT | (out.hash >> 16) as u16;
    let ports = join(source.to_be(), settings::gue_port());
    let length = outer.payload_length.to_be();
    // Variant 0, no options, no flags: only the number of the protocol inside.
    let gue = u32::from_ne_bytes([0, F::ENCAPSULATED, 0, 0]);
    let checksum = match outer.version {
        Version::V4 => 0,
        Version::V6 => {
            let inner = match out.carried {
                // The header's hop limit is in the sum, so it is looked at where it now stands.
                Carried::Summed { protocol } => {
                    packet.view::<F>(shim_offset + SHIM).ok_or(DropReason::NoHeadroom)?.known_sum(protocol)
                }
                Carried::Other => {
                    let inner = u32::from(outer.payload_length) - SHIM as u32;
                    Sum::default().word(sum_of(&packet, (shim_offset + SHIM) as u32, inner))
                }
            };
            let pseudo = words(outer.source.0, words(out.selected.backend.address.0, inner))
                .half_word(length)
                .half_word(u16::from(Protocol::Udp as u8).to_be());
            pseudo.word(ports).half_word(length).word(gue).udp_checksum()
        }
    };
    let shim = packet.view_mut::<[Word; 3]>(shim_offset).ok_or(DropReason::NoHeadroom)?;
    *shim = [Word(ports), Word(join(length, checksum)), Word(gue)];
    let verdict = link::send(&packet, &out.link, next_hop, outer.ether_type())?;
    count::forwarded(out.selected.index, out.length);
    Ok(verdict)
}

/// Whether the transport header has a checksum to build on.
#[inline(always)]
pub fn carried<F: Family>(packet: &Packet, headers: &Headers<F>) -> Carried {
    let offset = headers.transport_offset + transport::checksum_offset(headers.protocol);
    let checksum = packet.view::<HalfWord>(offset);
    let is_summed = match headers.protocol {
        Protocol::Tcp => true,
        Protocol::Udp => checksum.is_some_and(|checksum| checksum.0 != 0) && is_filled(packet, headers),
    };
    if headers.is_plain && is_summed { Carried::Summed { protocol: headers.protocol as u8 } } else { Carried::Other }
}

/// Whether the datagram takes all of its packet: its checksum covers nothing behind it (RFC 9868).
#[inline(always)]
fn is_filled<F: Family>(packet: &Packet, headers: &Headers<F>) -> bool {
    let length = packet.view::<HalfWord>(headers.transport_offset + UDP_LENGTH).map(|length| u16::from_be(length.0));
    let behind = headers.transport_offset as u32 - headers.link.length() as u32;
    length.is_some_and(|length| u32::from(length) + behind == headers.network.total_length())
}

#[inline(always)]
fn words(words: [u32; 4], sum: Sum) -> Sum {
    let [a, b, c, d] = words;
    sum.word(a).word(b).word(c).word(d)
}

/// The UDP header, and the GUE header without options.
const SHIM: usize = UdpHdr::LEN + 4;
const UDP_LENGTH: usize = core::mem::offset_of!(UdpHdr, len);
/// The dynamic ports (RFC 6335, section 6).
const FIRST_SOURCE_PORT: u16 = 0xc000;
