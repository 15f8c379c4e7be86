//! Packets that are for no listener, whatever they are: they pass as they came.

use clb_common::Protocol::{Tcp, Udp};

use crate::{
    build::{CLB_MAC, CLIENT_MAC, Segment, arp_request, frame, icmp},
    cases::{BACKEND_MAC, CLIENT, CLIENT_V6, Case, Expected::Pass},
};

/// Rows for what is none of clb's business.
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn passed() -> Vec<Case> {
    let web = Segment::new(Tcp, CLIENT, "203.0.113.10:80");
    let mut broadcast = web.bytes();
    broadcast[..6].fill(0xff);
    let mut multicast = web.bytes();
    multicast[..6].copy_from_slice(&[0x01, 0x00, 0x5e, 0, 0, 1]);
    let mut old_v6_version = Segment::new(Tcp, CLIENT_V6, "[2001:db8:1:2:3:4:5:10]:80").bytes();
    old_v6_version[14] = 0x40;
    let mut old_version = web.bytes();
    old_version[14] = 0x55;
    let mut short_header = web.bytes();
    short_header[14] = 0x44;
    let mut tagged = web.bytes();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07].repeat(3));
    let mut sctp = web.bytes();
    sctp[23] = 132;
    vec![
        Case { name: "ARP passes", packet: arp_request(), expected: Pass },
        Case {
            name: "an echo request to another address passes",
            packet: frame(
                CLB_MAC,
                CLIENT_MAC,
                &[],
                &icmp(
                    "198.51.100.10".parse().unwrap(),
                    "203.0.113.11".parse().unwrap(),
                    64,
                    [8, 0],
                    [0, 1, 0, 2],
                    b"ping",
                ),
            ),
            expected: Pass,
        },
        Case {
            name: "another port of a VIP passes",
            packet: web.clone().to("203.0.113.10:22").bytes(),
            expected: Pass,
        },
        Case { name: "another address passes", packet: web.clone().to("203.0.113.11:80").bytes(), expected: Pass },
        Case {
            name: "another protocol of a VIP and port passes",
            packet: Segment::new(Udp, CLIENT, "203.0.113.10:80").bytes(),
            expected: Pass,
        },
        Case {
            name: "an IPv6 address that ends like a VIP's mapped one passes",
            packet: Segment::new(Tcp, CLIENT_V6, "[::203.0.113.10]:80").bytes(),
            expected: Pass,
        },
        Case {
            name: "an IPv6 packet for the IPv4-mapped address of a VIP passes",
            packet: Segment::new(Tcp, CLIENT_V6, "[::ffff:203.0.113.10]:80").bytes(),
            expected: Pass,
        },
        Case { name: "a frame for a group of hosts passes", packet: broadcast, expected: Pass },
        Case { name: "a frame for an IPv4 multicast group passes", packet: multicast, expected: Pass },
        Case { name: "an IPv6 header of another version passes", packet: old_v6_version, expected: Pass },
        Case {
            name: "a fragment for another address passes",
            packet: web.clone().to("203.0.113.11:80").fragments(16)[2].clone(),
            expected: Pass,
        },
        Case {
            name: "what a backend sends to the host itself from its bound port passes",
            packet: Segment::new(Tcp, "10.0.1.11:8081", "198.51.100.2:50000").on_link(CLB_MAC, BACKEND_MAC).bytes(),
            expected: Pass,
        },
        Case { name: "an IPv4 header of another version passes", packet: old_version, expected: Pass },
        Case { name: "an IPv4 header shorter than five words passes", packet: short_header, expected: Pass },
        Case { name: "a frame with three tags passes", packet: tagged, expected: Pass },
        Case { name: "another transport protocol passes", packet: sctp, expected: Pass },
        Case {
            name: "a frame that ends inside its IP header passes",
            packet: web.bytes()[..30].to_vec(),
            expected: Pass,
        },
        Case { name: "a frame that ends before its ports passes", packet: web.bytes()[..36].to_vec(), expected: Pass },
        Case {
            name: "what a backend sends from another port is no reply",
            packet: Segment::new(Tcp, "10.0.1.11:22", CLIENT).bytes(),
            expected: Pass,
        },
        Case {
            name: "a fragment of ICMP for a VIP passes: no listener can be meant",
            packet: {
                let mut bytes = web.fragments(16)[1].clone();
                bytes[23] = 1;
                bytes
            },
            expected: Pass,
        },
        Case {
            name: "an ICMP error for a VIP about somebody else's packet passes",
            packet: error_for("203.0.113.10", &Segment::new(Tcp, "203.0.113.11:80", CLIENT), 8),
            expected: Pass,
        },
        Case {
            name: "an ICMP error that quotes less than eight bytes passes",
            packet: error_for("203.0.113.10", &Segment::new(Tcp, "203.0.113.10:80", CLIENT), 4),
            expected: Pass,
        },
        Case {
            name: "a source route that is not at its end passes",
            packet: Segment::new(Tcp, CLIENT_V6, "[2001:db8:1:2:3:4:5:10]:80")
                .extensions(&[(43, &[4, 1, 0, 0, 0, 0])])
                .bytes(),
            expected: Pass,
        },
        Case {
            name: "more extension headers than are walked over pass",
            packet: Segment::new(Tcp, CLIENT_V6, "[2001:db8:1:2:3:4:5:10]:80")
                .extensions(&[(60, [1, 4, 0, 0, 0, 0].as_slice()); 7])
                .bytes(),
            expected: Pass,
        },
        Case {
            name: "a tunnel to a VIP passes",
            packet: {
                let mut bytes = web.bytes();
                bytes[23] = 4;
                bytes
            },
            expected: Pass,
        },
    ]
}

/// A host is unreachable, says a router: it quotes so much behind the IP header.
pub fn error_for(address: &str, quoted: &Segment, length: usize) -> Vec<u8> {
    let (router, to) = ("192.0.2.7".parse().unwrap(), address.parse().unwrap());
    frame(CLB_MAC, CLIENT_MAC, &[], &icmp(router, to, 64, [3, 1], [0; 4], &quoted.packet()[..20 + length]))
}
