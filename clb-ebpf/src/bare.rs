//! Two programs of a few instructions. `pass` stands on the far end of a veth link, which must be able to receive XDP
//! frames before clb can send any there; and both are the floor that clb's own cost is measured against.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macro makes functions of its own, without docs")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes every packet.
#[xdp]
pub fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Swaps the MAC addresses and sends the packet back.
#[xdp]
pub fn swap(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + size_of::<[u16; 6]>() > end {
        return xdp_action::XDP_PASS;
    }
    let addresses = start as *mut [u16; 6];
    // SAFETY: twelve bytes of the packet, checked above; packet data is aligned to two bytes, and nobody else holds it.
    let [a, b, c, d, e, f] = unsafe { &mut *addresses };
    core::mem::swap(a, d);
    core::mem::swap(b, e);
    core::mem::swap(c, f);
    xdp_action::XDP_TX
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
