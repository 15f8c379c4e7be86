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
mod listener;
mod maps;
mod packet;
mod parse;
mod reply;
mod select;
mod settings;
mod transport;
mod verdict;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use aya_log_ebpf::debug;
use clb_common::{DropReason, VerdictCounter};
use network_types::eth::{EthHdr, EtherType};

use crate::{
    family::{Family, V4, V6},
    packet::Packet,
    verdict::Verdict,
};

/// The program that the agent attaches.
#[xdp]
pub fn clb(context: XdpContext) -> u32 {
    match handle(&Packet::new(&context)) {
        Ok(Verdict::Pass) => {
            count::unsent(VerdictCounter::Passed);
            xdp_action::XDP_PASS
        }
        Ok(Verdict::Transmit) => xdp_action::XDP_TX,
        Ok(Verdict::Redirect { interface }) => packet::redirect(interface),
        Err(reason) => {
            count::unsent(VerdictCounter::Dropped(reason));
            // Off unless the agent was asked for it; the verifier then removes the branch.
            debug!(&context, "dropped: {}", reason.name());
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn handle(packet: &Packet) -> Result<Verdict, DropReason> {
    let Some(ethernet) = packet.view::<EthHdr>(0) else { return Ok(Verdict::Pass) };
    // A frame for a group of hosts is never for a listener.
    if ethernet.dst_addr[0] & 1 != 0 {
        return Ok(Verdict::Pass);
    }
    if ethernet.ether_type == EtherType::Ipv4 as u16 {
        balance::<V4>(packet)
    } else if ethernet.ether_type == EtherType::Ipv6 as u16 {
        balance::<V6>(packet)
    } else {
        Ok(Verdict::Pass)
    }
}

#[inline(always)]
fn balance<F: Family>(packet: &Packet) -> Result<Verdict, DropReason> {
    let Some(headers) = parse::headers::<F>(packet) else { return Ok(Verdict::Pass) };
    if let Some(listener) = listener::find(&headers) {
        count::arrived(listener.index, packet.length());
        if headers.is_fragment {
            return Err(DropReason::Fragment);
        }
        let selected = select::backend(listener.table, headers.flow_hash())?;
        return forward::to_backend(packet, &headers, &selected);
    }
    if let Some(reply) = reply::find(&headers) {
        return reply::to_client(packet, &headers, reply);
    }
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
