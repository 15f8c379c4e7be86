//! Writing packets, by the RFCs. A rewritten packet is as right or as wrong as it was: its checksums change by as much as
//! the bytes that they cover.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::read::{self, Ip, TCP, UDP};

/// The sum of the 16-bit words of these bytes, modulo 65,535 (RFC 1071: one's complement arithmetic is that).
pub fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    words.sum::<u64>() % ONES
}

/// The checksum of what sums up to this.
pub fn checksum(sum: u64) -> u16 {
    ((ONES - sum % ONES) % ONES) as u16
}

/// The same for UDP, where 0 says that there is none (RFC 768).
pub fn udp_checksum(sum: u64) -> u16 {
    match checksum(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// A checksum after a change of what it covers.
fn shifted(checksum: u16, before: u64, after: u64) -> u16 {
    ((u64::from(checksum) + before + ONES - after % ONES) % ONES) as u16
}

/// New ends for a packet: addresses with ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
}

/// Rewrites the addresses of the packet at `ip`, and the ports and the transport checksum if its transport header is there.
pub fn ends(bytes: &mut [u8], ip: &Ip, limit: usize, ends: Ends) {
    let before = sum(&addresses(bytes, ip));
    addresses_only(bytes, ip, ends.source.map(|end| end.ip()), ends.destination.map(|end| end.ip()));
    let after = sum(&addresses(bytes, ip));
    let ports_before = sum(&bytes[ip.payload..ip.payload + 4]);
    if let Some(source) = ends.source {
        put(bytes, ip.payload, &source.port().to_be_bytes());
    }
    if let Some(destination) = ends.destination {
        put(bytes, ip.payload + 2, &destination.port().to_be_bytes());
    }
    let ports_after = sum(&bytes[ip.payload..ip.payload + 4]);
    let at = ip.payload + if ip.protocol == TCP { 16 } else { 6 };
    if at + 2 > limit {
        return;
    }
    let old = read::half(bytes, at).unwrap();
    let new = shifted(old, before + ports_before, after + ports_after);
    let new = match (ip.protocol, old, new) {
        (UDP, 0, _) => 0,
        (UDP, _, 0) => 0xffff,
        _ => new,
    };
    put(bytes, at, &new.to_be_bytes());
}

/// Rewrites addresses, and IPv4's header checksum.
pub fn addresses_only(bytes: &mut [u8], ip: &Ip, source: Option<IpAddr>, destination: Option<IpAddr>) {
    let before = sum(&addresses(bytes, ip));
    let (source_at, destination_at) = if ip.source.is_ipv4() { (12, 16) } else { (8, 24) };
    for (at, address) in [(source_at, source), (destination_at, destination)] {
        match address {
            Some(IpAddr::V4(address)) => put(bytes, ip.at + at, &address.octets()),
            Some(IpAddr::V6(address)) => put(bytes, ip.at + at, &address.octets()),
            None => {}
        }
    }
    let after = sum(&addresses(bytes, ip));
    if ip.source.is_ipv4() {
        let old = read::half(bytes, ip.at + 10).unwrap();
        put(bytes, ip.at + 10, &shifted(old, before, after).to_be_bytes());
    }
}

fn addresses(bytes: &[u8], ip: &Ip) -> Vec<u8> {
    let range = if ip.source.is_ipv4() { 12..20 } else { 8..40 };
    bytes[ip.at + range.start..ip.at + range.end].to_vec()
}

/// Sets the TTL or the hop limit.
pub fn hop_limit(bytes: &mut [u8], ip: &Ip, value: u8) {
    if ip.source.is_ipv4() {
        let before = sum(&bytes[ip.at + 8..ip.at + 10]);
        bytes[ip.at + 8] = value;
        let after = sum(&bytes[ip.at + 8..ip.at + 10]);
        let old = read::half(bytes, ip.at + 10).unwrap();
        put(bytes, ip.at + 10, &shifted(old, before, after).to_be_bytes());
    } else {
        bytes[ip.at + 7] = value;
    }
}

/// Makes an ICMP message's checksum, at `at`, what it must be after the changes since `before`. `pseudo` says how much the
/// sum of its pseudo-header has changed.
pub fn icmp_checksum(bytes: &mut [u8], at: usize, end: usize, before: u64, pseudo: (u64, u64)) {
    let old = read::half(bytes, at + 2).unwrap();
    put(bytes, at + 2, &[0, 0]);
    let after = sum(&bytes[at..end]);
    put(bytes, at + 2, &shifted(old, before + pseudo.0, after + pseudo.1).to_be_bytes());
}

/// The sum of an ICMP message without its checksum.
pub fn icmp_sum(bytes: &[u8], at: usize, end: usize) -> u64 {
    let mut message = bytes[at..end].to_vec();
    message[2..4].fill(0);
    sum(&message)
}

/// An IP header without options around a payload of this length.
pub struct Header {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub class: u8,
    /// IPv4: identification, flags and offset.
    pub fragmentation: [u8; 4],
    pub flow_label: u32,
    pub protocol: u8,
    pub payload: usize,
}

impl Header {
    pub fn bytes(&self) -> Vec<u8> {
        let Self { class, fragmentation, flow_label, protocol, payload, .. } = *self;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, class];
                header.extend(((payload + 20) as u16).to_be_bytes());
                header.extend(fragmentation);
                header.extend([HOP_LIMIT, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let checksum = checksum(sum(&header));
                put(&mut header, 10, &checksum.to_be_bytes());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = (6 << 28 | u32::from(class) << 20 | flow_label).to_be_bytes().to_vec();
                header.extend((payload as u16).to_be_bytes());
                header.extend([protocol, HOP_LIMIT]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => panic!("{} and {} are of two families", self.source, self.destination),
        }
    }
}

/// The sum of the pseudo-header of a payload of this length.
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    };
    sum(&octets(source)) + sum(&octets(destination)) + u64::from(protocol) + length as u64 % ONES
}

pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

const ONES: u64 = 0xffff;
/// Of packets that clb itself makes.
pub const HOP_LIMIT: u8 = 64;
