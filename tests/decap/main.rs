//! The program of `clb decap`, as the agent loads it, run on packets through `BPF_PROG_TEST_RUN`.
//!
//! Packets are put together by a crate that knows nothing of clb. Each case compares the whole frame and every counter.

mod build;

use std::{collections::BTreeSet, net::IpAddr};

use aya::programs::{TestRun as _, TestRunOptions};
use clb_common::decap::Received;
use clb_userspace::{dataplane::Decapsulator, prefix::Prefix};

use crate::build::{
    FROM_V4, FROM_V6, GUE_PORT, OWN_V4, OWN_V6, change, fragment, frame, gue, in_ip, in_udp, inner, ip,
    with_destination_options, with_options,
};

const PASS: u32 = 2;
const DROP: u32 = 1;

#[test]
fn every_kind_of_tunnel_is_taken_off_and_nothing_else_of_the_frame() {
    let mut decap = Program::load();
    for tags in [&[][..], &[[0x81, 0x00, 0x20, 100]], &[[0x88, 0xa8, 0, 7], [0x81, 0, 0xe0, 100]]] {
        for outer in [[FROM_V4, OWN_V4], [FROM_V6, OWN_V6]] {
            for is_ipv4 in [true, false] {
                let inner = inner(is_ipv4, 0xb8, 1_000);
                let name = format!("outer {outer:?}, inner IPv4: {is_ipv4}, {} tags", tags.len());
                let expected = frame(tags, &inner);
                let ipip = frame(tags, &in_ip(outer, 0, &inner));
                decap.assert(&format!("ipip, {name}"), &ipip, PASS, &expected, Some(Received::Ipip));
                let gue = frame(tags, &in_udp(outer, 0, GUE_PORT, &gue(&inner)));
                decap.assert(&format!("gue, {name}"), &gue, PASS, &expected, Some(Received::Gue));
            }
        }
    }
}

#[test]
fn what_is_inside_may_have_any_shape() {
    let mut decap = Program::load();
    let v4 = inner(true, 0, 100);
    for (name, inner) in [
        ("the smallest IPv4 packet", change(&v4[..20], |bytes| (bytes[2], bytes[3]) = (0, 20))),
        (
            "the smallest IPv6 packet",
            change(&inner(false, 0, 0)[..40], |bytes| (bytes[4], bytes[5], bytes[6]) = (0, 0, 59)),
        ),
        ("IPv4 options", with_options(&v4)),
        ("an IPv4 fragment", fragment(&v4, 1_480, true)),
        ("IPv6 extension headers", with_destination_options(&inner(false, 0, 100))),
        ("a wrong checksum of its own", change(&v4, |bytes| bytes[10] ^= 1)),
    ] {
        let packet = frame(&[], &in_ip([FROM_V4, OWN_V4], 0, &inner));
        decap.assert(name, &packet, PASS, &frame(&[], &inner), Some(Received::Ipip));
    }
    // The stack cuts off what is behind the packet.
    let padded = |ip: &[u8]| [&frame(&[], ip)[..], &[0; 8]].concat();
    let packet = padded(&in_ip([FROM_V4, OWN_V4], 0, &v4));
    decap.assert("a padded frame", &packet, PASS, &padded(&v4), Some(Received::Ipip));
}

/// RFC 6040, figure 4: the rows are the packet inside, the columns the outer header: Not-ECT, ECT(0), ECT(1), CE.
#[test]
fn ecn_is_what_rfc_6040_says_and_dscp_is_the_inner_one() {
    let columns = [0b00, 0b10, 0b01, 0b11];
    let table = [
        (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
        (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(0b11)]),
        (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
        (0b11, [Some(0b11), Some(0b11), Some(0b11), Some(0b11)]),
    ];
    let mut decap = Program::load();
    for (before, row) in table {
        for (outer_ecn, after) in columns.into_iter().zip(row) {
            for is_ipv4 in [true, false] {
                for outer in [[FROM_V4, OWN_V4], [FROM_V6, OWN_V6]] {
                    let with = |ecn| inner(is_ipv4, AF41 | ecn, 64);
                    let name =
                        format!("inner {before:02b}, outer {outer_ecn:02b}, inner IPv4: {is_ipv4}, outer {outer:?}");
                    let ipip = frame(&[], &in_ip(outer, EF | outer_ecn, &with(before)));
                    let gue = frame(&[], &in_udp(outer, EF | outer_ecn, GUE_PORT, &gue(&with(before))));
                    if let Some(after) = after {
                        let expected = frame(&[], &with(after));
                        decap.assert(&name, &ipip, PASS, &expected, Some(Received::Ipip));
                        decap.assert(&name, &gue, PASS, &expected, Some(Received::Gue));
                    } else {
                        decap.assert(&name, &ipip, DROP, &ipip, Some(Received::Congested));
                        decap.assert(&name, &gue, DROP, &gue, Some(Received::Congested));
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_for_it_passes_as_it_came() {
    let (v4, v6) = (inner(true, 0, 100), inner(false, 0, 100));
    let (to_v4, to_v6) = ([FROM_V4, OWN_V4], [FROM_V6, OWN_V6]);
    let ipip = in_ip(to_v4, 0, &v4);
    let refused = Some(Received::RefusedSource);
    let mut decap = Program::load();
    for (name, ip, counted) in [
        ("ipip from just before the trusted prefix", in_ip(["172.15.255.255", OWN_V4], 0, &v4), refused),
        ("ipip from just behind it", in_ip(["172.17.0.0", OWN_V4], 0, &v4), refused),
        ("ipip from another IPv6 prefix", in_ip(["100:0:0:1::1", OWN_V6], 0, &v4), refused),
        ("gue from another source", in_udp(["192.0.2.9", OWN_V4], 0, GUE_PORT, &gue(&v4)), refused),
        ("gue that is wrong, from another source", in_udp(["192.0.2.9", OWN_V4], 0, GUE_PORT, &[0xff; 40]), refused),
        ("ipip from a trusted IPv4 source, mapped into IPv6", in_ip(["::ffff:172.16.0.1", OWN_V6], 0, &v4), refused),
        ("ipip to another host", in_ip([FROM_V4, "10.0.0.6"], 0, &v4), None),
        ("ipip to another IPv6 host", in_ip([FROM_V6, "fd00:10::6"], 0, &v4), None),
        ("ipip to the host's IPv4 address, mapped into IPv6", in_ip([FROM_V6, "::ffff:10.0.0.5"], 0, &v6), None),
        ("gue to another host", in_udp([FROM_V4, "10.0.0.6"], 0, GUE_PORT, &gue(&v4)), None),
        ("UDP to another port", in_udp(to_v4, 0, GUE_PORT + 1, &gue(&v4)), None),
        (
            "UDP without a whole header",
            change(&ipip[..27], |bytes| {
                (bytes[3], bytes[9]) = (27, 17);
                build::set_checksum(bytes);
            }),
            None,
        ),
        (
            "another protocol",
            change(&ipip, |bytes| {
                bytes[9] = 47;
                build::set_checksum(bytes);
            }),
            None,
        ),
        ("outer options", with_options(&ipip), None),
        ("outer extension headers", with_destination_options(&in_ip(to_v6, 0, &v4)), None),
        ("the first outer fragment", fragment(&ipip, 0, true), None),
        ("the last outer fragment", fragment(&ipip, 1_480, false), None),
        ("an outer checksum that is wrong", change(&ipip, |bytes| bytes[10] ^= 1), None),
        (
            "an outer length beyond the frame",
            change(&ipip, |bytes| {
                bytes[3] += 1;
                build::set_checksum(bytes);
            }),
            None,
        ),
        (
            "an outer length below the header's",
            change(&ipip, |bytes| {
                (bytes[2], bytes[3]) = (0, 19);
                build::set_checksum(bytes);
            }),
            None,
        ),
        ("an outer IPv6 length beyond the frame", change(&in_ip(to_v6, 0, &v4), |bytes| bytes[5] += 1), None),
        ("an outer header cut off", ipip[..19].to_vec(), None),
        ("the packet itself", v4.clone(), None),
        ("the IPv6 packet itself", v6, None),
    ] {
        let packet = frame(&[], &ip);
        decap.assert(name, &packet, PASS, &packet, counted);
    }
    for (name, packet) in [
        ("a frame of three tags", frame(&[[0x81, 0, 0, 1]; 3], &ipip)),
        ("ipip with the type of ARP", change(&frame(&[], &ipip), |bytes| bytes[13] = 6)),
        (
            "ipip with the type of the other family",
            change(&frame(&[], &ipip), |bytes| (bytes[12], bytes[13]) = (0x86, 0xdd)),
        ),
        ("a frame of nothing", frame(&[], &ipip)[..14].to_vec()),
    ] {
        decap.assert(name, &packet, PASS, &packet, None);
    }
}

#[test]
fn what_a_trusted_source_sends_wrongly_is_dropped() {
    let v4 = inner(true, 0, 100);
    let mut decap = Program::load();
    let plain = gue(&v4);
    let in_gue = |payload: &[u8]| in_udp([FROM_V4, OWN_V4], 0, GUE_PORT, payload);
    let in_ipip = |payload: &[u8]| ip([FROM_V4, OWN_V4], 0, 4, payload);
    for (name, packet) in [
        ("gue of variant 1", in_gue(&v4)),
        ("a control message of gue", in_gue(&change(&plain, |bytes| bytes[0] = 0x20))),
        ("gue with options", in_gue(&change(&plain, |bytes| bytes[0] = 1))),
        ("gue with a flag", in_gue(&change(&plain, |bytes| bytes[2] = 0x80))),
        ("gue with another flag", in_gue(&change(&plain, |bytes| bytes[3] = 1))),
        ("gue around something else", in_gue(&change(&plain, |bytes| bytes[1] = 17))),
        ("gue that says another family", in_gue(&change(&plain, |bytes| bytes[1] = 41))),
        ("gue of no bytes", in_gue(&[])),
        ("gue of half a header", in_gue(&[0, 4])),
        ("gue of its header alone", in_gue(&[0, 4, 0, 0])),
        ("a UDP length beyond the packet", change(&in_gue(&plain), |bytes| bytes[25] += 1)),
        ("a UDP length below its header's", change(&in_gue(&plain), |bytes| (bytes[24], bytes[25]) = (0, 7))),
        ("a UDP length that cuts the packet inside", change(&in_gue(&plain), |bytes| bytes[25] -= 1)),
        ("ipip of no bytes", in_ipip(&[])),
        ("ipip of half a header", in_ipip(&v4[..10])),
        ("ipip that says another family", ip([FROM_V4, OWN_V4], 0, 41, &v4)),
        ("ipip around IPv6 that says IPv4", in_ipip(&inner(false, 0, 100))),
        ("ipip around a packet without its last byte", in_ipip(&v4[..v4.len() - 1])),
        ("ipip around an IPv6 packet without its last byte", {
            let v6 = inner(false, 0, 100);
            ip([FROM_V4, OWN_V4], 0, 41, &v6[..v6.len() - 1])
        }),
        ("an inner header of four words", in_ipip(&change(&v4, |bytes| bytes[0] = 0x44))),
        ("an inner length below the header's", in_ipip(&change(&v4, |bytes| (bytes[2], bytes[3]) = (0, 19)))),
    ] {
        let packet = frame(&[], &packet);
        decap.assert(name, &packet, DROP, &packet, Some(Received::Malformed));
    }
}

#[test]
fn an_address_that_is_taken_away_is_not_the_host_s_any_more() {
    let mut decap = Program::load();
    let inner = inner(true, 0, 100);
    let packet = frame(&[], &in_ip([FROM_V4, OWN_V4], 0, &inner));
    decap.assert("before", &packet, PASS, &frame(&[], &inner), Some(Received::Ipip));
    decap.program.set_own_addresses(addresses(&[OWN_V6])).unwrap();
    decap.assert("after", &packet, PASS, &packet, None);
    decap.program.set_own_addresses(addresses(&[OWN_V6, OWN_V4])).unwrap();
    decap.assert("again", &packet, PASS, &frame(&[], &inner), Some(Received::Ipip));
}

/// Trust in everything of one family is none in the other.
#[test]
fn the_whole_of_one_family_is_nothing_of_the_other() {
    let inner = inner(true, 0, 100);
    for (trusted, outer, counted) in [
        ("::/0", [FROM_V4, OWN_V4], Received::RefusedSource),
        ("0.0.0.0/0", ["::ffff:172.16.0.1", OWN_V6], Received::RefusedSource),
        ("0.0.0.0/0", [FROM_V4, OWN_V4], Received::Ipip),
        ("::/0", [FROM_V6, OWN_V6], Received::Ipip),
    ] {
        let mut decap = Program::trusting(&[trusted]);
        let packet = frame(&[], &in_ip(outer, 0, &inner));
        let expected = if counted == Received::Ipip { frame(&[], &inner) } else { packet.clone() };
        decap.assert(&format!("{trusted}, {outer:?}"), &packet, PASS, &expected, Some(counted));
    }
}

/// The loaded program, attached to nothing.
struct Program {
    program: Decapsulator,
}

impl Program {
    fn load() -> Self {
        Self::trusting(&["172.16.0.0/16", "100::/64"])
    }

    fn trusting(sources: &[&str]) -> Self {
        let sources: Vec<Prefix> = sources.iter().map(|source| source.parse().unwrap()).collect();
        let mut program =
            Decapsulator::load(&sources, GUE_PORT).expect("these tests load an XDP program: run them as root");
        program.set_own_addresses(addresses(&[OWN_V4, OWN_V6])).unwrap();
        Self { program }
    }

    /// Runs the program, and compares the XDP code, the frame, and which counter was raised.
    fn assert(&mut self, name: &str, packet: &[u8], action: u32, expected: &[u8], counted: Option<Received>) {
        let before = self.program.received().unwrap();
        let mut bytes = vec![0; packet.len() + 256];
        let options = TestRunOptions { data_in: Some(packet), data_out: Some(&mut bytes), ..TestRunOptions::default() };
        let done = self.program.xdp().unwrap().test_run(options).unwrap();
        bytes.truncate(done.data_size_out as usize);
        assert_eq!(done.return_value, action, "{name}: the XDP code");
        assert_eq!(bytes, expected, "{name}");
        let raised = before.into_iter().map(|(kind, packets)| (kind, packets + u64::from(counted == Some(kind))));
        assert_eq!(self.program.received().unwrap(), raised.collect::<Vec<_>>(), "{name}");
    }
}

fn addresses(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// Classes of traffic that are not the same inside and outside (RFC 2597, RFC 3246).
const AF41: u8 = 34 << 2;
const EF: u8 = 46 << 2;
