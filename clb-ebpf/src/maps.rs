//! The maps, and the only file that follows pointers into them.
//!
//! The agent sets the real sizes when it loads the program. Look-ups in array maps are inlined by the kernel, in hash maps
//! and tries they are calls.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    macros::btf_map,
};
use clb_common::{
    Address, Backend, BackendTraffic, Endpoint, Listener, NextHop, Reply, SlotBlock, Traffic, VERDICT_COUNTERS,
};

/// VIP, protocol and port to the listener's index. An index stays as long as its listener.
#[btf_map]
static LISTENER_INDEXES: HashMap<Endpoint, u32, SIZED_BY_AGENT> = HashMap::new();

/// Listeners by index: the slot table in force.
#[btf_map]
pub static LISTENERS: Array<Listener, SIZED_BY_AGENT> = Array::new();

/// All slot tables, in blocks.
#[btf_map]
pub static SLOTS: Array<SlotBlock, SIZED_BY_AGENT> = Array::new();

/// Backends by the index that stands in the slots.
#[btf_map]
pub static BACKENDS: Array<Backend, SIZED_BY_AGENT> = Array::new();

/// In `nat`: a backend's endpoint to the source that its replies leave with.
#[btf_map]
static REPLIES: HashMap<Endpoint, Reply, SIZED_BY_AGENT> = HashMap::new();

/// The way to clients: prefixes to next hops, longest match first.
#[btf_map]
static ROUTES: LpmTrie<Address, NextHop, SIZED_BY_AGENT> = LpmTrie::new();

/// Packets for each listener.
#[btf_map]
pub static LISTENER_TRAFFIC: PerCpuArray<Traffic, SIZED_BY_AGENT> = PerCpuArray::new();

/// Packets sent for each backend.
#[btf_map]
pub static BACKEND_TRAFFIC: PerCpuArray<BackendTraffic, SIZED_BY_AGENT> = PerCpuArray::new();

/// Packets that were not sent: see `VerdictCounter`.
#[btf_map]
pub static VERDICTS: PerCpuArray<u64, { VERDICT_COUNTERS as usize }> = PerCpuArray::new();

/// Clients that a reply could not be sent to, for the agent to ask the kernel about.
#[btf_map]
static UNRESOLVED_CLIENTS: RingBuf<(), UNRESOLVED_CLIENTS_BYTES> = RingBuf::new();

/// One page. When it is full, clients go unreported until the agent has read it: their packets are counted all the same.
const UNRESOLVED_CLIENTS_BYTES: usize = 4_096;

/// A map needs some size to compile.
const SIZED_BY_AGENT: usize = 1;

/// The index of the listener with this endpoint.
#[inline(always)]
pub fn listener_index(endpoint: &Endpoint) -> Option<u32> {
    // SAFETY: the value is copied out at once, and the program never writes this map.
    unsafe { LISTENER_INDEXES.get(endpoint) }.copied()
}

/// What a packet from this endpoint is a reply of.
#[inline(always)]
pub fn reply(endpoint: &Endpoint) -> Option<Reply> {
    // SAFETY: the value is copied out at once, and the program never writes this map. The kernel may give a removed
    // element to the next one that is added; the agent adds none until packets that could see it are through.
    unsafe { REPLIES.get(endpoint) }.copied()
}

/// The way to this client.
#[inline(always)]
pub fn route(client: Address) -> Option<&'static NextHop> {
    let AlignedKey { key, .. } = &AlignedKey { _filler: 0, key: Key::new(u128::BITS, client) };
    ROUTES.get(key)
}

/// Tells the agent of a client whose next hop is not known.
#[inline(always)]
pub fn report_unresolved(client: Address) {
    // A full ring is no error: see `UNRESOLVED_CLIENTS_BYTES`.
    let _ = UNRESOLVED_CLIENTS.output_untyped::<Address>(client, 0);
}

/// Puts the key's address on a boundary of eight bytes. It stands behind the prefix length, and the compiler copies it by
/// eight bytes, which the verifier refuses elsewhere on the stack ("misaligned stack access").
#[repr(C, align(8))]
struct AlignedKey {
    _filler: u32,
    key: Key<Address>,
}

/// Changes this CPU's element of a counter map. An index outside the map counts nothing.
#[inline(always)]
pub fn with<T, const N: usize>(map: &PerCpuArray<T, N>, index: u32, change: impl FnOnce(&mut T)) {
    if let Some(element) = map.get_ptr_mut(index) {
        // SAFETY: a program is not preempted by another XDP program on its CPU, so nobody else holds this element.
        change(unsafe { &mut *element });
    }
}
