//! Whether the checksums of a packet are right, computed by a crate that knows nothing of clb, in all the packets that it
//! holds: those in tunnels, and those that ICMP quotes.

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, checksum::Sum16BitWords};

/// Which checksums of a frame are wrong.
pub fn wrong_checksums(frame: &[u8]) -> Vec<&'static str> {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else { return vec!["no Ethernet header"] };
    match sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let mut wrong = Vec::new();
            if header.to_header().calc_header_checksum() != header.header_checksum() {
                wrong.push("IPv4");
            }
            let pseudo = Sum16BitWords::new().add_4bytes(header.source()).add_4bytes(header.destination());
            let payload = ip.payload();
            if !payload.fragmented {
                wrong.extend(inside(payload.ip_number, payload.payload, pseudo));
            }
            wrong
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let pseudo = Sum16BitWords::new().add_16bytes(header.source()).add_16bytes(header.destination());
            let payload = ip.payload();
            if payload.fragmented { Vec::new() } else { inside(payload.ip_number, payload.payload, pseudo) }
        }
        _ => vec!["no IP header"],
    }
}

fn inside(number: IpNumber, payload: &[u8], addresses: Sum16BitWords) -> Vec<&'static str> {
    let pseudo = addresses.add_2bytes([0, number.0]).add_4bytes((payload.len() as u32).to_be_bytes());
    let is_wrong = |sum: &Sum16BitWords| sum.clone().add_slice(payload).ones_complement() != 0;
    match number {
        IpNumber::TCP if is_wrong(&pseudo) => vec!["TCP"],
        IpNumber::UDP => {
            let mut wrong = Vec::new();
            if payload[6..8] != [0, 0] && is_wrong(&pseudo) {
                wrong.push("UDP");
            }
            if payload[2..4] == GUE_PORT.to_be_bytes() {
                wrong.extend(packet(&payload[12..]));
            }
            wrong
        }
        IpNumber::ICMP if is_wrong(&Sum16BitWords::new()) => vec!["ICMP"],
        IpNumber::IPV6_ICMP if is_wrong(&pseudo) => vec!["ICMPv6"],
        IpNumber::IPV4 | IpNumber::IPV6 => packet(payload),
        _ => Vec::new(),
    }
}

fn packet(bytes: &[u8]) -> Vec<&'static str> {
    let ether_type = if bytes[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    wrong_checksums(&[&[0; 12], ether_type.as_slice(), bytes].concat())
}

/// The port registered for GUE.
const GUE_PORT: u16 = 6_080;
