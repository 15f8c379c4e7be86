//! Programs of a few instructions, for the lab and the benchmark.
//!
//! `pass` stands on the far end of a veth link, which must be able to receive XDP frames before clb can send any there.
//! `pass`, `drop` and `swap` are the floor that clb's cost is measured against. `restore` stands before the measured program: the
//! kernel's test run repeats a program on the packet as the last run left it, which is not what a network card does.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macro makes functions of its own, without docs")]
#![expect(clippy::needless_pass_by_value, reason = "the program macro hands the context over by value")]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use clb_common::bench::{HEADER_WORDS, Template};

/// Passes every packet.
#[xdp(frags)]
pub fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Drops every packet.
#[xdp(frags)]
pub fn drop(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Swaps the MAC addresses and sends the packet back.
#[xdp(frags)]
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

/// What `restore` writes. Only the measuring CPU uses it.
#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();

/// The program to measure.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// The same, for one that takes no packets in fragments: the kernel keeps the two kinds apart.
#[btf_map]
static MEASURED_LINEAR: ProgramArray<1> = ProgramArray::new();

/// Makes the packet the first one of the next flow, and hands it to the measured program.
#[xdp(frags)]
pub fn restore(context: XdpContext) -> u32 {
    if next(&context).is_some() {
        // SAFETY: the measured program is of the same type, which the kernel checks when it is put into the map.
        unsafe { MEASURED.tail_call(&context, 0) };
    }
    // The call returns only if there is no program to call.
    xdp_action::XDP_ABORTED
}

/// The same for a program that takes no packets in fragments.
#[xdp]
pub fn restore_linear(context: XdpContext) -> u32 {
    if next(&context).is_some() {
        // SAFETY: as in `restore`.
        unsafe { MEASURED_LINEAR.tail_call(&context, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn next(context: &XdpContext) -> Option<()> {
    let template = TEMPLATE.get_ptr_mut(0)?;
    // SAFETY: the element lives as long as the program, and one CPU measures at a time.
    let template = unsafe { &mut *template };
    // Always, so that the floor has its cost, too.
    let surplus = ((context.data_end() - context.data()) as u32).cast_signed() - template.length.cast_signed();
    // SAFETY: the helper checks the number against what there is.
    if unsafe { bpf_xdp_adjust_head(context.ctx, surplus) } != 0 {
        return None;
    }
    let (start, end) = (context.data(), context.data_end());
    if start + size_of::<[u64; HEADER_WORDS]>() > end {
        return None;
    }
    let packet = start as *mut u64;
    let mut word = 0;
    while word < HEADER_WORDS {
        // SAFETY: one of the packet's first words, checked above.
        let at = unsafe { packet.add(word) };
        // SAFETY: as above. Volatile, or the loop becomes a call of a byte-wise memcpy, at 50 ns.
        unsafe { at.write_volatile(template.headers[word]) };
        word += 1;
    }
    let flow = turn(&mut template.flow, template.flows);
    // As wide as they are read: the CPU cannot forward two narrow stores to one wide load.
    write(start, end, template.port_at, (1_024 + (flow & 0x7fff) as u16).to_be());
    write(start, end, template.address_at, template.address ^ (flow >> 15).to_be());
    if template.listeners > 1 {
        let listener = turn(&mut template.listener, template.listeners);
        write(start, end, template.listener_at, ((template.listener_port + listener) as u16).to_be());
    }
    Some(())
}

/// Whose turn it is, and lets the next have the next one.
#[inline(always)]
fn turn(next: &mut u32, all: u32) -> u32 {
    let now = *next;
    *next = if now + 1 == all { 0 } else { now + 1 };
    now
}

/// Writes to the packet, if it has these bytes.
#[inline(always)]
fn write<T>(start: usize, end: usize, offset: u32, value: T) {
    let at = start + (offset & MOST) as usize;
    if at + size_of::<T>() <= end {
        // SAFETY: checked above.
        unsafe { (at as *mut T).write_unaligned(value) };
    }
}

/// Tells the verifier that an offset is small.
const MOST: u32 = 0x7f;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
