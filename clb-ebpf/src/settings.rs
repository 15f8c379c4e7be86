//! Load-time settings: the agent overrides them before it loads the program, and the verifier takes them for constants
//! and removes what they rule out.

use aya_ebpf::Global;
use clb_common::{FlowHash, ForwardingMode, SlotTable};

#[unsafe(no_mangle)]
static FLOW_HASH: [Global<u64>; FlowHash::KEYS] = [const { Global::new(0) }; FlowHash::KEYS];

/// The modes of all listeners, each a bit.
#[unsafe(no_mangle)]
static MODES: Global<u32> = Global::new(0);

/// 1 if the program only explains: it remembers nothing. Its counters are its own.
#[unsafe(no_mangle)]
static EXPLAINS: Global<u32> = Global::new(0);

/// Where outer headers come from, in `ipip` and `gue`: prefix, and mask of the bits that vary with the flow.
#[unsafe(no_mangle)]
static TUNNEL_V4: [Global<u32>; 2] = [const { Global::new(0) }; 2];

/// The same for IPv6: the four words of the prefix, and the mask for the last of them.
#[unsafe(no_mangle)]
static TUNNEL_V6: [Global<u32>; 5] = [const { Global::new(0) }; 5];

/// The destination port of `gue`, as it stands in a packet.
#[unsafe(no_mangle)]
static GUE_PORT: Global<u32> = Global::new(0);

/// How many CPUs share the pool of source ports.
#[unsafe(no_mangle)]
static CPUS: Global<u32> = Global::new(1);

/// One less than the number of places for endpoints of listeners, and of backends in `nat`.
#[unsafe(no_mangle)]
static PLACES: [Global<u32>; 2] = [const { Global::new(0) }; 2];

/// The keyed flow hash. Each key is loaded by itself, so only those that a family uses are loaded.
#[inline(always)]
pub fn flow_hash() -> FlowHash {
    let [a, b, c, d, e, f] = &FLOW_HASH;
    FlowHash::from_keys([a.load(), b.load(), c.load(), d.load(), e.load(), f.load()])
}

/// Whether a listener is in this mode.
#[inline(always)]
pub fn is(table: &SlotTable, mode: ForwardingMode) -> bool {
    uses(mode) && table.is(mode)
}

/// Whether any listener is in this mode.
#[inline(always)]
pub fn uses(mode: ForwardingMode) -> bool {
    MODES.load() & mode.bit() != 0
}

/// Whether flows and fragments are remembered, and the agent told.
#[inline(always)]
pub fn records() -> bool {
    EXPLAINS.load() == 0
}

/// Masks the places for endpoints of listeners.
#[inline(always)]
pub fn listener_mask() -> u32 {
    PLACES[0].load()
}

/// Masks the places for endpoints of backends in `nat`.
#[inline(always)]
pub fn reply_mask() -> u32 {
    PLACES[1].load()
}

/// The source of an outer IPv4 header.
#[inline(always)]
pub fn tunnel_source_v4(hash: u32) -> u32 {
    let [prefix, mask] = &TUNNEL_V4;
    prefix.load() | (hash & mask.load())
}

/// Whether an address is one of those sources.
#[inline(always)]
pub fn is_tunnel_source_v4(address: u32) -> bool {
    let [prefix, mask] = &TUNNEL_V4;
    address & !mask.load() == prefix.load()
}

/// The source of an outer IPv6 header.
#[inline(always)]
pub fn tunnel_source_v6(hash: u32) -> [u32; 4] {
    let [a, b, c, d, mask] = &TUNNEL_V6;
    [a.load(), b.load(), c.load(), d.load() | (hash & mask.load())]
}

/// Whether an address is one of those sources.
#[inline(always)]
pub fn is_tunnel_source_v6(address: [u32; 4]) -> bool {
    let [a, b, c, d, mask] = &TUNNEL_V6;
    let [e, f, g, h] = address;
    e == a.load() && f == b.load() && g == c.load() && h & !mask.load() == d.load()
}

/// The destination port of `gue`, as it stands in a packet.
#[inline(always)]
pub fn gue_port() -> u16 {
    GUE_PORT.load() as u16
}

/// How many CPUs share the pool of source ports.
#[inline(always)]
pub fn cpus() -> u32 {
    CPUS.load()
}
