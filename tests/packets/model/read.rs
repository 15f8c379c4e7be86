//! Reading a frame, by the RFCs: Ethernet with tags, IP with options and extension headers, ports. Nothing here writes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP packet in a frame.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Where it begins.
    pub at: usize,
    /// Where it ends, by its own account.
    pub end: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// What follows the headers, and where.
    pub protocol: u8,
    pub payload: usize,
    pub fragment: Option<Fragment>,
    /// The number of the header that follows the first one.
    pub first_protocol: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub identification: u32,
    pub is_first: bool,
}

/// The tags of a frame and the IP packet behind them, if that is what it holds.
pub fn frame(bytes: &[u8]) -> Option<(Vec<[u8; 4]>, Ip)> {
    let mut tags = Vec::new();
    let mut at = 12;
    loop {
        let ether_type = half(bytes, at)?;
        match ether_type {
            0x8100 | 0x88a8 if tags.len() < 2 => {
                tags.push(array(bytes, at)?);
                at += 4;
            }
            0x0800 => return Some((tags, ipv4(bytes, at + 2)?)),
            0x86dd => return Some((tags, ipv6(bytes, at + 2, Extensions::Walked)?)),
            _ => return None,
        }
    }
}

/// A packet that an ICMP message of this family quotes.
pub fn quoted(bytes: &[u8], at: usize, family: &IpAddr) -> Option<Ip> {
    match family {
        IpAddr::V4(_) => ipv4(bytes, at),
        IpAddr::V6(_) => ipv6(bytes, at, Extensions::Left),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extensions {
    Walked,
    Left,
}

/// RFC 791, section 3.1.
fn ipv4(bytes: &[u8], at: usize) -> Option<Ip> {
    let header: [u8; 20] = array(bytes, at)?;
    let words = header[0] & 0x0f;
    if header[0] >> 4 != 4 || words < 5 {
        return None;
    }
    let flags_and_offset = u16::from_be_bytes([header[6], header[7]]);
    let offset = flags_and_offset & 0x1fff;
    let more = flags_and_offset & 0x2000 != 0;
    let identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
    Some(Ip {
        at,
        end: at + usize::from(u16::from_be_bytes([header[2], header[3]])),
        source: Ipv4Addr::from(array::<4>(bytes, at + 12)?).into(),
        destination: Ipv4Addr::from(array::<4>(bytes, at + 16)?).into(),
        hop_limit: header[8],
        class: header[1],
        protocol: header[9],
        payload: at + usize::from(words) * 4,
        fragment: (offset != 0 || more).then_some(Fragment { identification, is_first: offset == 0 }),
        first_protocol: header[9],
    })
}

/// RFC 8200, sections 3 and 4.
fn ipv6(bytes: &[u8], at: usize, extensions: Extensions) -> Option<Ip> {
    let header: [u8; 40] = array(bytes, at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut ip = Ip {
        at,
        end: at + 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
        source: Ipv6Addr::from(array::<16>(bytes, at + 8)?).into(),
        destination: Ipv6Addr::from(array::<16>(bytes, at + 24)?).into(),
        hop_limit: header[7],
        class: header[0] << 4 | header[1] >> 4,
        protocol: header[6],
        payload: at + 40,
        fragment: None,
        first_protocol: header[6],
    };
    if extensions == Extensions::Left {
        return Some(ip);
    }
    for _ in 0..MOST_EXTENSION_HEADERS {
        let length = match ip.protocol {
            HOP_BY_HOP | DESTINATION_OPTIONS => usize::from(*bytes.get(ip.payload + 1)?) * 8 + 8,
            ROUTING => {
                let [_, length, _, segments_left] = array(bytes, ip.payload)?;
                // The packet is on its way to somewhere else.
                if segments_left != 0 {
                    return None;
                }
                usize::from(length) * 8 + 8
            }
            FRAGMENT => {
                let [_, _, high, low, a, b, c, d] = array(bytes, ip.payload)?;
                let is_first = u16::from_be_bytes([high, low]) >> 3 == 0;
                ip.fragment = Some(Fragment { identification: u32::from_be_bytes([a, b, c, d]), is_first });
                8
            }
            _ => break,
        };
        ip.protocol = bytes[ip.payload];
        ip.payload += length;
        if ip.fragment.is_some_and(|fragment| !fragment.is_first) {
            break;
        }
    }
    Some(ip)
}

/// The ports of TCP and UDP: source and destination.
pub fn ports(bytes: &[u8], at: usize) -> Option<(u16, u16)> {
    Some((half(bytes, at)?, half(bytes, at + 2)?))
}

impl Ip {
    /// Both ends of a TCP or UDP packet whose ports can be read.
    pub fn ends(&self, bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        if !matches!(self.protocol, TCP | UDP) || self.fragment.is_some_and(|fragment| !fragment.is_first) {
            return None;
        }
        let (source, destination) = ports(bytes, self.payload)?;
        Some((SocketAddr::new(self.source, source), SocketAddr::new(self.destination, destination)))
    }

    pub fn is_first_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.is_first)
    }
}

pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const MOST_EXTENSION_HEADERS: usize = 6;
