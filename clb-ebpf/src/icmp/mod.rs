//! ICMP to and about listeners. Anything else of it is the host's.

mod echo;
mod embedded;
mod error;
pub mod too_big;

use clb_common::{Address, DropReason};
use network_types::icmp::Icmpv4Hdr;

pub use self::error::forward_to_client;
use crate::{family::Family, link::Link, packet::Packet, parse::Datagram, verdict::Verdict};

/// The first eight bytes, alike in both versions: type, code, checksum, and four bytes that depend on them.
type Header = Icmpv4Hdr;

/// What differs between ICMP for IPv4 (RFC 792) and for IPv6 (RFC 4443).
pub trait Icmp: Family {
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
    /// Whether a message of this type is about a packet that it quotes.
    fn is_error(kind: u8) -> bool;
    /// Whether an address is one host's.
    fn is_one_host(address: Address) -> bool;
    /// The largest packet that a router lets through, if the message says so.
    fn path_mtu(header: Header) -> Option<u16>;
}

/// Handles an ICMP message.
#[inline(always)]
pub fn handle<F: Icmp>(packet: &Packet, link: Link, datagram: &Datagram<F>) -> Result<Verdict, DropReason> {
    if datagram.payload.fragment.is_some() || datagram.payload.protocol != F::ICMP {
        return Ok(Verdict::Pass);
    }
    let Some(header) = packet.view::<Header>(datagram.payload.offset) else { return Ok(Verdict::Pass) };
    if header.type_ == F::ECHO_REQUEST {
        echo::answer(packet, link, datagram)
    } else if F::is_error(header.type_) {
        error::forward(packet, link, datagram)
    } else {
        Ok(Verdict::Pass)
    }
}

impl Icmp for crate::family::V4 {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | 11 | 12)
    }

    #[inline(always)]
    fn is_one_host(address: Address) -> bool {
        // This network, loopback, groups and what is reserved (RFC 1122, section 3.2.1.3).
        let [first, ..] = address.v4_word().to_ne_bytes();
        !matches!(first, 0 | 127 | 224..)
    }

    #[inline(always)]
    fn path_mtu(header: Header) -> Option<u16> {
        // RFC 1191, section 4.
        let [_, _, high, low] = header.data;
        (header.type_ == UNREACHABLE && header.code == FRAGMENTATION_NEEDED).then(|| u16::from_be_bytes([high, low]))
    }
}

impl Icmp for crate::family::V6 {
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn is_one_host(address: Address) -> bool {
        // Neither unspecified, nor loopback, nor a group (RFC 4291).
        let Address([a, b, c, d]) = address;
        let [first, ..] = a.to_ne_bytes();
        first != 0xff && (a | b | c != 0 || u32::from_be(d) > 1)
    }

    #[inline(always)]
    fn path_mtu(header: Header) -> Option<u16> {
        // RFC 4443, section 3.2. No link has more than 65,535.
        let [.., high, low] = header.data;
        (header.type_ == PACKET_TOO_BIG).then(|| u16::from_be_bytes([high, low]))
    }
}

/// RFC 792: destination unreachable, and its code for a packet that does not fit and must not be fragmented.
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// RFC 4443, section 3.2.
const PACKET_TOO_BIG: u8 = 2;
