//! The way of a plain packet in `dsr`, cut off behind each stage: what a stage costs is the difference of two of these programs.
//!
//! Only the benchmark loads them, beside the program that they are cut from, with the same maps. Each sends the packet back at
//! its end. The last one, with `count`, is the program itself.

use core::hint::black_box;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use clb_common::{Endpoint, ForwardingMode};
use network_types::eth::EthHdr;

use crate::{
    family::{Family, V4},
    forward, link,
    listener::{self, Found},
    packet::{Offsets, Packet},
    parse::{self, Headers},
    select::{self, Selected},
    settings,
};

/// As far as `parse`.
#[xdp(frags)]
pub fn ladder_parse(context: XdpContext) -> u32 {
    let packet = Packet::new(&context, Offsets::Constant);
    end(parse(&packet).map(|headers| sum(&headers.source()) ^ sum(&headers.destination())))
}

/// As far as `listener`.
#[xdp(frags)]
pub fn ladder_listener(context: XdpContext) -> u32 {
    let packet = Packet::new(&context, Offsets::Constant);
    end(parse(&packet).and_then(|headers| find(&headers)).map(|listener| listener.index.into()))
}

/// As far as `select`.
#[xdp(frags)]
pub fn ladder_select(context: XdpContext) -> u32 {
    let packet = Packet::new(&context, Offsets::Constant);
    end(select(&packet).map(|(_, selected)| selected.index.into()))
}

/// As far as `forward`.
#[xdp(frags)]
pub fn ladder_forward(context: XdpContext) -> u32 {
    let packet = Packet::new(&context, Offsets::Constant);
    end(forward(&packet).map(|()| 0))
}

#[inline(always)]
fn parse<'a>(packet: &Packet<'a>) -> Option<Headers<'a, V4>> {
    let ethernet = packet.view::<EthHdr>(0)?;
    if ethernet.dst_addr[0] & 1 != 0 || ethernet.ether_type != V4::ETHER_TYPE as u16 {
        return None;
    }
    parse::plain::<V4>(packet)
}

#[inline(always)]
fn find(headers: &Headers<V4>) -> Option<Found<'static>> {
    let listener = listener::find(&headers.destination(), Offsets::Constant)?;
    (!settings::is(listener.table, ForwardingMode::FullNat)).then_some(listener)
}

#[inline(always)]
fn select<'a>(packet: &Packet<'a>) -> Option<(Headers<'a, V4>, Selected<'static>)> {
    let headers = parse(packet)?;
    let listener = find(&headers)?;
    let hash = headers.flow_hash();
    let selected = select::backend(&listener, hash, || headers.source(), || headers.marks(packet)).ok()?;
    Some((headers, selected))
}

#[inline(always)]
fn forward(packet: &Packet) -> Option<()> {
    let (headers, selected) = select(packet)?;
    let next_hop = selected.backend.next_hop.current();
    forward::check_size(headers.network.total_length(), 0, next_hop).ok()?;
    link::forward(packet, &headers.link, next_hop, V4::ETHER_TYPE).map(drop).ok()
}

/// All of an endpoint, in one number.
#[inline(always)]
fn sum(endpoint: &Endpoint) -> u64 {
    let [a, b, c] = endpoint.words();
    a ^ b ^ c
}

/// Sends the packet back, and lets the compiler leave out nothing that was found.
#[inline(always)]
fn end(found: Option<u64>) -> u32 {
    let Some(found) = found else { return xdp_action::XDP_PASS };
    black_box(found);
    xdp_action::XDP_TX
}
