//! The maps, and the only file that follows pointers into them.
//!
//! The agent sets the real sizes when it loads the program. Look-ups in array maps are inlined by the kernel, in hash maps
//! and tries they are calls.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, lpm_trie::Key},
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns},
    macros::btf_map,
    programs::XdpContext,
};
use clb_common::{
    Address, Backend, BackendTraffic, EVENT_COUNTERS, Endpoint, EndpointEntry, Flow, FlowKey, FragmentKey,
    FragmentNote, Listener, NOBODY, NextHop, OPENING_PINS_PER_TICK, PINS_PER_TICK, POOL_ADDRESSES, Pin, PinBudget,
    Pool, Reply, Report, Return, ReturnKey, STAGES, Seen, Segment, SlotBlock, Stage, TICK_SHIFT, TOO_BIG_PER_TICK,
    TooBig, Traffic, Transition, VERDICT_COUNTERS, probes,
};

use crate::{forward::Delivery, packet::Offsets, parse::Walked, settings};

/// VIP, protocol and port to the listener's index. An index stays as long as its listener.
#[btf_map]
static LISTENER_INDEXES: EndpointTable = Array::new();

/// Listeners by index: the slot table in force.
#[btf_map]
pub static LISTENERS: Array<Listener, SIZED_BY_AGENT, ALIGNED> = Array::new();

/// All slot tables, in blocks.
#[btf_map]
pub static SLOTS: Array<SlotBlock, SIZED_BY_AGENT, ALIGNED> = Array::new();

/// The changes of slots' owners that may still concern a flow.
#[btf_map]
pub static TRANSITIONS: Array<Transition, SIZED_BY_AGENT> = Array::new();

/// Flows that stay at their backend although their slot has moved.
#[btf_map]
static PINS: LruHashMap<FlowKey, Pin, SIZED_BY_AGENT> = LruHashMap::new();

/// The same for flows of which only a SYN was seen: a flood of those pushes out no other.
#[btf_map]
static OPENING_PINS: LruHashMap<FlowKey, Pin, SIZED_BY_AGENT> = LruHashMap::new();

/// How many pins each CPU may still make.
#[btf_map]
static PIN_BUDGET: PerCpuArray<PinBudget, 1> = PerCpuArray::new();

/// Backends by the index that stands in the slots.
#[btf_map]
pub static BACKENDS: Array<Backend, SIZED_BY_AGENT, ALIGNED> = Array::new();

/// In `nat`: a backend's endpoint to its index.
#[btf_map]
static REPLY_INDEXES: EndpointTable = Array::new();

/// In `nat`: the source that a backend's replies leave with, by its index.
#[btf_map]
static REPLIES: Array<Reply, SIZED_BY_AGENT, ALIGNED> = Array::new();

/// Backends that shall get no new flows, as a person asked: by address, and port or 0 for all. The agent's own note, which
/// outlives it; no packet looks at it.
#[btf_map]
static DRAINS: HashMap<Endpoint, u32, MOST_DRAINS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

const MOST_DRAINS: usize = 65_536;

/// The way to clients: prefixes to next hops, longest match first.
#[btf_map]
static ROUTES: LpmTrie<Address, NextHop, SIZED_BY_AGENT> = LpmTrie::new();

/// Packets for each listener that were not sent.
#[btf_map]
pub static LISTENER_TRAFFIC: PerCpuArray<Traffic, SIZED_BY_AGENT> = PerCpuArray::new();

/// Packets that were sent to backends of each listener which are gone. The agent's own note; no packet looks at it.
#[btf_map]
static FORMER_TRAFFIC: Array<Traffic, SIZED_BY_AGENT> = Array::new();

/// Packets sent for each backend.
#[btf_map]
pub static BACKEND_TRAFFIC: PerCpuArray<BackendTraffic, SIZED_BY_AGENT> = PerCpuArray::new();

/// Packets that were not sent: see `VerdictCounter`.
#[btf_map]
pub static VERDICTS: PerCpuArray<u64, { VERDICT_COUNTERS as usize }> = PerCpuArray::new();

/// What happened beside the packets: see `Event`.
#[btf_map]
pub static EVENTS: PerCpuArray<u64, { EVENT_COUNTERS as usize }> = PerCpuArray::new();

/// What the agent has to know of.
#[btf_map]
static REPORTS: RingBuf<(), REPORTS_BYTES> = RingBuf::new();

/// One page. When it is full, nothing is reported until the agent has read it: packets are counted all the same.
const REPORTS_BYTES: usize = 4_096;

/// In `full_nat`: a client's flows with a listener.
#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, SIZED_BY_AGENT> = HashMap::new();

/// In `full_nat`: the same flows as a backend sees them.
#[btf_map]
static RETURNS: HashMap<ReturnKey, Return, SIZED_BY_AGENT> = HashMap::new();

/// In `full_nat`: the addresses that backends see.
#[btf_map]
pub static SOURCES: Array<Address, { 2 * POOL_ADDRESSES as usize }> = Array::new();

/// In `full_nat`: how many of them there are.
#[btf_map]
pub static POOL: Array<Pool, 1> = Array::new();

/// In `full_nat`: how many sources each CPU has taken.
#[btf_map]
static SOURCES_TAKEN: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Where the fragments of a datagram go.
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentNote, FRAGMENTS_NOTED> = LruHashMap::new();

/// Datagrams in fragments at the same time. The oldest note gives way.
const FRAGMENTS_NOTED: usize = 16_384;

/// What each CPU may still send to senders of packets that are too big.
#[btf_map]
static TOO_BIG: PerCpuArray<TooBig, 1> = PerCpuArray::new();

/// The programs behind the first one, by their `Stage`.
#[btf_map]
static PROGRAMS: ProgramArray<{ STAGES as usize }> = ProgramArray::new();

/// What one program tells the next of the packet that this CPU is at.
#[btf_map]
static WALKED: PerCpuArray<Walked, 1> = PerCpuArray::new();

/// Where the packet that this CPU is at shall go.
#[btf_map]
static DELIVERY: PerCpuArray<Delivery, 1> = PerCpuArray::new();

/// A map needs some size to compile.
const SIZED_BY_AGENT: usize = 1;

/// The kernel then begins the elements on a page of their own, and no cache line holds parts of two.
const ALIGNED: usize = BPF_F_MMAPABLE as usize;

/// The index of the listener with this endpoint, or `NOBODY`.
#[inline(always)]
pub fn listener_index(endpoint: &Endpoint, offsets: Offsets) -> u32 {
    let [a, b, c] = endpoint.words();
    at_first_place(&LISTENER_INDEXES, settings::listener_mask(), endpoint, offsets)
        .unwrap_or_else(|| clb_listener_index(a, b, c))
}

/// The backend that a packet from this endpoint is a reply of, and what that is to leave as.
#[inline(always)]
pub fn reply(endpoint: &Endpoint, offsets: Offsets) -> Option<(u32, &'static Reply)> {
    let [a, b, c] = endpoint.words();
    let backend = at_first_place(&REPLY_INDEXES, settings::reply_mask(), endpoint, offsets)
        .unwrap_or_else(|| clb_reply_index(a, b, c));
    REPLIES.get(backend).map(|reply| (backend, reply))
}

/// Looks at all places where the endpoint of these words may stand. A function of its own for the verifier, which would walk the
/// loop once for every way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn clb_listener_index(a: u64, b: u64, c: u64) -> u32 {
    index(&LISTENER_INDEXES, settings::listener_mask(), &Endpoint::from_words([a, b, c]))
}

/// The same for the backends in `nat`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn clb_reply_index(a: u64, b: u64, c: u64) -> u32 {
    index(&REPLY_INDEXES, settings::reply_mask(), &Endpoint::from_words([a, b, c]))
}

/// What the first place says where nearly all endpoints stand, if it says something. Only the program for plain packets looks there
/// itself: in the others more than one look-up would be in the verifier's way.
#[inline(always)]
fn at_first_place(table: &EndpointTable, mask: u32, endpoint: &Endpoint, offsets: Offsets) -> Option<u32> {
    match offsets {
        Offsets::Variable => None,
        Offsets::Constant => {
            let entry = table.get(endpoint.spread() & mask)?;
            if entry.is_of(endpoint) {
                return Some(entry.index);
            }
            entry.is_end().then_some(NOBODY)
        }
    }
}

/// The index that an endpoint leads to, or `NOBODY`, which no map has: a number in any case, since the compiler leaves one that does
/// not matter unset, and the verifier refuses that.
#[inline(always)]
fn index(table: &EndpointTable, mask: u32, endpoint: &Endpoint) -> u32 {
    for place in probes(endpoint, mask) {
        let Some(entry) = table.get(place) else { break };
        if entry.is_of(endpoint) {
            return entry.index;
        }
        if entry.is_end() {
            break;
        }
    }
    NOBODY
}

type EndpointTable = Array<EndpointEntry, SIZED_BY_AGENT, ALIGNED>;

/// The way to this client.
#[inline(always)]
pub fn route(client: Address) -> Option<&'static NextHop> {
    let AlignedKey { key, .. } = &AlignedKey { _filler: 0, key: Key::new(u128::BITS, client) };
    ROUTES.get(key)
}

/// Tells the agent something.
#[inline(always)]
pub fn report(report: &Report) {
    if settings::records() {
        // A full ring is no error: see `REPORTS_BYTES`.
        let _ = REPORTS.output_untyped::<Report>(report, 0);
    }
}

/// What became of an entry.
pub enum Inserted {
    Yes,
    /// There is one with this key.
    Taken,
    /// The map is full.
    Full,
}

/// A client's flow, which has now been seen.
#[inline(always)]
pub fn flow(key: &FlowKey, seen: Seen) -> Option<&'static Flow> {
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the kernel keeps the element as long as the program runs. Other CPUs may write `seen` at the same time, whose
    // fields are aligned words: a mark that is lost in such a race is set by the next packet.
    let flow = unsafe { &mut *flow };
    mark(&mut flow.seen, seen);
    Some(flow)
}

/// A client's flow, as it stands.
#[inline(always)]
pub fn look_at_flow(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: as in `flow`.
    unsafe { FLOWS.get(key) }
}

/// The way back of a backend's packet, which has now been seen.
#[inline(always)]
pub fn way_back(key: &ReturnKey, seen: Seen) -> Option<&'static Return> {
    let back = RETURNS.get_ptr_mut(key)?;
    // SAFETY: as in `flow`.
    let back = unsafe { &mut *back };
    mark(&mut back.seen, seen);
    Some(back)
}

/// The way back of a backend's packet, as it stands.
#[inline(always)]
pub fn look_at_return(key: &ReturnKey) -> Option<&'static Return> {
    // SAFETY: as in `flow`.
    unsafe { RETURNS.get(key) }
}

/// Writes only what is new: the entry's cache line stays shared among CPUs for about a second.
#[inline(always)]
pub fn mark(known: &mut Seen, seen: Seen) {
    if settings::records() && (known.tick != seen.tick || known.marks | seen.marks != known.marks) {
        *known = Seen { tick: seen.tick, marks: known.marks | seen.marks };
    }
}

/// Remembers a flow, unless it is remembered already.
#[inline(always)]
pub fn insert_flow(key: &FlowKey, flow: &Flow) -> Inserted {
    inserted(FLOWS.insert(key, flow, BPF_NOEXIST.into()))
}

/// Remembers a way back, unless its source is taken.
#[inline(always)]
pub fn insert_return(key: &ReturnKey, back: &Return) -> Inserted {
    inserted(RETURNS.insert(key, back, BPF_NOEXIST.into()))
}

/// Forgets a way back.
#[inline(always)]
pub fn remove_return(key: &ReturnKey) {
    // It is gone either way.
    let _ = RETURNS.remove(key);
}

#[inline(always)]
fn inserted(result: Result<(), i32>) -> Inserted {
    match result {
        Ok(()) => Inserted::Yes,
        Err(EEXIST) => Inserted::Taken,
        Err(_) => Inserted::Full,
    }
}

/// The number of the next source that this CPU may take: the CPUs' numbers do not meet.
#[inline(always)]
pub fn next_source() -> u32 {
    let mut taken = 0;
    with(&SOURCES_TAKEN, 0, |count: &mut u32| {
        taken = *count;
        *count = taken.wrapping_add(1);
    });
    // SAFETY: the helper has no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    taken.wrapping_mul(settings::cpus()).wrapping_add(cpu)
}

/// Where a flow is pinned that showed more than a SYN.
#[inline(always)]
pub fn pin(key: &FlowKey) -> Option<&'static mut Pin> {
    // SAFETY: as in `flow`. If the oldest pin gives way in that moment, a packet of this flow may go where another one is pinned,
    // whose backend answers it with a reset: a full map is where connections can break.
    PINS.get_ptr_mut(key).map(|pin| unsafe { &mut *pin })
}

/// Where a flow is pinned that showed a SYN only.
#[inline(always)]
pub fn opening_pin(key: &FlowKey) -> Option<&'static Pin> {
    // SAFETY: as in `pin`.
    unsafe { OPENING_PINS.get(key) }
}

/// Pins a flow that showed more than a SYN. Says whether there was room.
#[inline(always)]
pub fn set_pin(key: &FlowKey, pin: &Pin) -> bool {
    PINS.insert(key, pin, 0).is_ok()
}

/// Pins a flow that opens a connection. Says whether there was room.
#[inline(always)]
pub fn set_opening_pin(key: &FlowKey, pin: &Pin) -> bool {
    OPENING_PINS.insert(key, pin, 0).is_ok()
}

/// Forgets where a flow was pinned.
#[inline(always)]
pub fn remove_pin(key: &FlowKey) {
    // It is gone either way.
    let _ = PINS.remove(key);
}

/// Forgets where a flow was pinned that showed a SYN only.
#[inline(always)]
pub fn remove_opening_pin(key: &FlowKey) {
    // It is gone either way.
    let _ = OPENING_PINS.remove(key);
}

/// Whether this CPU may make another pin in this tick.
#[inline(always)]
pub fn may_pin(segment: Segment, tick: u32) -> bool {
    let mut may = false;
    let cpus = settings::cpus().max(1);
    with(&PIN_BUDGET, 0, |budget: &mut PinBudget| {
        may = match segment {
            Segment::Opens => budget.opening.take(tick, OPENING_PINS_PER_TICK / cpus),
            Segment::Continues => budget.others.take(tick, PINS_PER_TICK / cpus),
        };
        if !may {
            budget.refused = tick;
        }
    });
    may
}

/// The note that the first fragment of a datagram left.
#[inline(always)]
pub fn fragment_note(key: &FragmentKey) -> Option<&'static FragmentNote> {
    // SAFETY: the kernel keeps the element's memory as long as the program runs. If the oldest note gives way in that moment,
    // the fragment goes the way of another datagram, and the backend throws it away.
    unsafe { FRAGMENTS.get(key) }
}

/// Leaves a note for the other fragments of a datagram.
#[inline(always)]
pub fn note_fragment(key: &FragmentKey, note: &FragmentNote) {
    // The map makes room for it; if it cannot, the other fragments are dropped and counted.
    let _ = FRAGMENTS.insert(key, note, 0);
}

/// Remembers for the stage that tells the sender which packets fit.
#[inline(always)]
pub fn note_mtu(mtu: u32) {
    with(&TOO_BIG, 0, |too_big: &mut TooBig| too_big.mtu = mtu);
}

/// The MTU to tell the sender, if this CPU may still send a message in this tick.
#[inline(always)]
pub fn noted_mtu() -> Option<u32> {
    let now = tick();
    let mut mtu = None;
    with(&TOO_BIG, 0, |too_big: &mut TooBig| {
        mtu = too_big.messages.take(now, TOO_BIG_PER_TICK).then_some(too_big.mtu);
    });
    mtu
}

/// Tells the next program what was found in the packet.
#[inline(always)]
pub fn note_walk(walked: &Walked) {
    with(&WALKED, 0, |noted: &mut Walked| *noted = *walked);
}

/// What the program before this one found in the packet.
#[inline(always)]
pub fn noted_walk() -> Option<&'static Walked> {
    // SAFETY: a program and the ones that it calls are not preempted by another XDP program on their CPU.
    WALKED.get_ptr(0).map(|walked| unsafe { &*walked })
}

/// Tells the next program where the packet goes.
#[inline(always)]
pub fn note_delivery(delivery: &Delivery) {
    with(&DELIVERY, 0, |noted: &mut Delivery| *noted = *delivery);
}

/// Where the packet goes.
#[inline(always)]
pub fn noted_delivery() -> Option<&'static Delivery> {
    // SAFETY: as in `noted_walk`.
    DELIVERY.get_ptr(0).map(|delivery| unsafe { &*delivery })
}

/// Hands the packet on to another program. Returns only if there is none.
#[inline(always)]
pub fn call(stage: Stage, context: &XdpContext) {
    // SAFETY: the map holds programs of this type only, which the kernel checks.
    unsafe { PROGRAMS.tail_call(context, stage as u32) };
}

/// The time.
#[inline(always)]
pub fn tick() -> u32 {
    // SAFETY: the helper has no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// The kernel's error for an entry that is there already.
const EEXIST: i32 = -17;

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
