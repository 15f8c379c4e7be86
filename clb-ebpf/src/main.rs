//! clb's XDP program: the entry, and the one exit.
//!
//! A file is a stage of a packet's way: `parse`, `listener`, `select`, `forward`, `count`; `reply` is the way back in
//! `nat`. Every stage returns a verdict or the reason of a drop, and only this file turns those into an XDP code. What
//! must stay true: a packet that is not for a listener passes as it came, and every packet is counted once.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macro makes functions of its own, without docs")]
#![expect(clippy::needless_pass_by_value, reason = "the program macro hands the context over by value")]

mod count;
mod family;
mod forward;
mod fragment;
mod icmp;
mod ladder;
mod link;
mod listener;
mod maps;
mod packet;
mod parse;
mod reply;
mod select;
mod settings;
mod track;
mod transport;
mod verdict;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use aya_log_ebpf::debug;
use clb_common::{DropReason, ForwardingMode, NOBODY, Stage, VerdictCounter};
use network_types::eth::EthHdr;

use crate::{
    family::{Family, V4, V6},
    icmp::Icmp,
    packet::{Offsets, Packet},
    parse::Headers,
    verdict::{Outcome, Verdict},
};

/// The program that the agent attaches. It knows plain packets; the programs below know the rest, and cost these nothing.
#[xdp(frags)]
pub fn clb(context: XdpContext) -> u32 {
    exit(&context, plain(&Packet::new(&context, Offsets::Constant)))
}

macro_rules! stages {
    ($($program:ident $stage:path;)+) => {
        $(
            #[xdp(frags)]
            pub fn $program(context: XdpContext) -> u32 {
                exit(&context, $stage(&Packet::new(&context, Offsets::Variable)))
            }
        )+
    };
}

stages! {
    walk walk_headers;
    unusual_v4 unusual::<V4>;
    unusual_v6 unusual::<V6>;
    fragment_v4 fragment::<V4>;
    fragment_v6 fragment::<V6>;
    icmp_v4 icmp::<V4>;
    icmp_v6 icmp::<V6>;
    to_client_v4 error_to_client::<V4>;
    to_client_v6 error_to_client::<V6>;
    full_nat_v4 full_nat::<V4>;
    full_nat_v6 full_nat::<V6>;
    reply_v4 full_nat_reply::<V4>;
    reply_v6 full_nat_reply::<V6>;
    deliver_v4 deliver::<V4>;
    deliver_v6 deliver::<V6>;
}

/// Tells the sender of a packet that is too big, which is counted as dropped.
#[xdp(frags)]
pub fn too_big(context: XdpContext) -> u32 {
    match icmp::too_big::answer(&Packet::new(&context, Offsets::Variable)) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_DROP,
    }
}

/// Turns what became of a packet into an XDP code. Nothing else does.
#[inline(always)]
fn exit(context: &XdpContext, outcome: Outcome) -> u32 {
    let reason = match outcome {
        Ok(Verdict::Pass) => {
            count::unsent(VerdictCounter::Passed);
            return xdp_action::XDP_PASS;
        }
        Ok(Verdict::Answer) => {
            count::unsent(VerdictCounter::Answered);
            return xdp_action::XDP_TX;
        }
        Ok(Verdict::Transmit) => return xdp_action::XDP_TX,
        Ok(Verdict::Redirect) => return xdp_action::XDP_REDIRECT,
        Ok(Verdict::Continue(stage)) => {
            maps::call(stage, context);
            DropReason::InconsistentMaps
        }
        Err(reason) => reason,
    };
    count::unsent(VerdictCounter::Dropped(reason));
    // Off unless the agent was asked for it; the verifier then removes the branch.
    debug!(context, "dropped: {}", reason.name());
    if reason == DropReason::PacketTooBig {
        maps::call(Stage::TooBig, context);
    }
    xdp_action::XDP_DROP
}

/// What becomes of a plain packet.
#[inline(always)]
fn plain(packet: &Packet) -> Outcome {
    let Some(ethernet) = packet.view::<EthHdr>(0) else { return Ok(Verdict::Pass) };
    // A frame for a group of hosts is never for a listener.
    if ethernet.dst_addr[0] & 1 != 0 {
        return Ok(Verdict::Pass);
    }
    if ethernet.ether_type == V4::ETHER_TYPE as u16
        && let Some(headers) = parse::plain::<V4>(packet)
    {
        return balance(packet, &headers);
    }
    if ethernet.ether_type == V6::ETHER_TYPE as u16
        && let Some(headers) = parse::plain::<V6>(packet)
    {
        return balance(packet, &headers);
    }
    if link::may_hold_ip(ethernet.ether_type) { Ok(Verdict::Continue(Stage::Walk)) } else { Ok(Verdict::Pass) }
}

#[inline(always)]
#[expect(clippy::unnecessary_wraps, reason = "a stage like the others")]
fn walk_headers(packet: &Packet) -> Outcome {
    Ok(parse::walk(packet).map_or(Verdict::Pass, Verdict::Continue))
}

/// What becomes of a packet that is not plain.
#[inline(always)]
fn unusual<F: Family>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    let Some(headers) = parse::transport(packet, link, &datagram) else { return Ok(Verdict::Pass) };
    balance(packet, &headers)
}

#[inline(always)]
fn fragment<F: Family>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    fragment::follow(packet, link, &datagram)
}

/// The stages behind `parse`.
#[inline(always)]
fn balance<F: Family>(packet: &Packet, headers: &Headers<F>) -> Outcome {
    if let Some(listener) = listener::find(&headers.destination(), packet.offsets()) {
        if settings::is(listener.table, ForwardingMode::FullNat) {
            parse::note(headers, listener.index);
            return Ok(Verdict::Continue(F::FULL_NAT_STAGE));
        }
        return forward::to_backend(packet, headers, &listener);
    }
    if let Some(reply) = reply::find(&headers.source(), packet.offsets()) {
        return reply::to_client(packet, headers, reply);
    }
    if settings::uses(ForwardingMode::FullNat) {
        parse::note(headers, NOBODY);
        return Ok(Verdict::Continue(F::FULL_NAT_REPLY_STAGE));
    }
    fragment::note_way_to_host(headers);
    Ok(Verdict::Pass)
}

#[inline(always)]
fn deliver<F: Family>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    forward::deliver(packet, link, &datagram)
}

#[inline(always)]
fn icmp<F: Icmp>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    icmp::handle(packet, link, &datagram)
}

#[inline(always)]
fn error_to_client<F: Icmp>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    icmp::forward_to_client(packet, link, &datagram)
}

/// A packet for a listener in `full_nat`.
#[inline(always)]
fn full_nat<F: Family>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    let Some(headers) = parse::transport(packet, link, &datagram) else { return Ok(Verdict::Pass) };
    let listener = listener::at(parse::noted_listener()).ok_or(DropReason::InconsistentMaps)?;
    forward::full_nat::to_backend(packet, &headers, &listener)
}

/// A packet for no listener: it may be a backend's in `full_nat`.
#[inline(always)]
fn full_nat_reply<F: Family>(packet: &Packet) -> Outcome {
    let Some((link, datagram)) = parse::walked::<F>(packet) else { return Ok(Verdict::Pass) };
    let Some(headers) = parse::transport(packet, link, &datagram) else { return Ok(Verdict::Pass) };
    if let Some(back) = forward::full_nat::back(packet, &headers) {
        return forward::full_nat::to_client(packet, &headers, back);
    }
    fragment::note_way_to_host(&headers);
    Ok(Verdict::Pass)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
