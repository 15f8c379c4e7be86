//! Load-time settings: the agent overrides them before it loads the program, and the verifier takes them for constants.

use aya_ebpf::Global;
use clb_common::FlowHash;

#[unsafe(no_mangle)]
static FLOW_HASH: [Global<u64>; FlowHash::KEYS] = [const { Global::new(0) }; FlowHash::KEYS];

/// The keyed flow hash. Each key is loaded by itself, so only those that a family uses are loaded.
#[inline(always)]
pub fn flow_hash() -> FlowHash {
    let [a, b, c, d, e, f] = &FLOW_HASH;
    FlowHash::from_keys([a.load(), b.load(), c.load(), d.load(), e.load(), f.load()])
}
