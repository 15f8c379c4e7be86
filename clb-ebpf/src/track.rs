//! Just-enough tracking: where a flow goes whose slot has changed its owner. `clb_common::Transition` says the rules; here is the
//! memory that they need.
//!
//! What must stay true: a slot whose owner stays never comes here. Pins are made at a bounded rate, and flows that only showed a
//! SYN have a map of their own, so that a flood of either kind pushes out no connection that lives.

use clb_common::{FlowKey, NOBODY, Pin, Seen, Segment, Transition};

use crate::{maps, settings};

/// The index of the backend of a flow whose packet shows these marks.
#[inline(always)]
pub fn backend(transition: u32, key: &FlowKey, marks: u32) -> u32 {
    // SAFETY: a program's own function, called with a reference. The largest index bounds what comes back as it bounds what stands in
    // a slot: so the verifier knows the rest of the way already.
    (unsafe { clb_tracked(key, transition, marks) }) & NOBODY
}

/// What a packet shows that is not looked at for its own sake, but for that of an ICMP message about its flow.
pub const ONLY_LOOKS: u32 = 1 << 31;

/// A function of its own, for its stack and for the verifier.
///
/// # Safety
///
/// `key` is null or points to a key.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn clb_tracked(key: *const FlowKey, transition: u32, marks: u32) -> u32 {
    // SAFETY: the caller's promise.
    let Some(key) = (unsafe { key.as_ref() }) else { return NOBODY };
    // Linux 6.1 looks up only keys on the stack of the function that asks.
    let key = &core::hint::black_box(*key);
    let Some(transition) = maps::TRANSITIONS.get(transition) else { return NOBODY };
    if marks & ONLY_LOOKS != 0 || !settings::records() {
        return look(transition, key, marks);
    }
    let seen = Seen { tick: maps::tick(), marks };
    if marks & (Seen::ESTABLISHED | Seen::RESET) == 0 {
        open(transition, key, seen)
    } else {
        go_on(transition, key, seen)
    }
}

/// A packet that opens a connection: whatever this flow was before is over.
#[inline(always)]
fn open(transition: &Transition, key: &FlowKey, seen: Seen) -> u32 {
    maps::remove_pin(key);
    let mut way = transition.opening(true);
    if way.pins {
        let pinned =
            maps::may_pin(Segment::Opens, seen.tick) && maps::set_opening_pin(key, &Pin::new(way.backend, seen));
        if pinned {
            return way.backend;
        }
        way = transition.opening(false);
    }
    maps::remove_opening_pin(key);
    way.backend
}

#[inline(always)]
fn go_on(transition: &Transition, key: &FlowKey, seen: Seen) -> u32 {
    if let Some(pin) = maps::pin(key) {
        if is_alive(pin.backend) {
            maps::mark(&mut pin.seen, seen);
            return pin.backend;
        }
        // It must not hold again when the backend is back: the flow is elsewhere by then.
        maps::remove_pin(key);
    }
    if let Some(pin) = maps::opening_pin(key) {
        let backend = pin.backend;
        let is_alive = is_alive(backend);
        // Without room among the others it stays what it is.
        if !is_alive || maps::set_pin(key, &Pin::new(backend, seen)) {
            maps::remove_opening_pin(key);
        }
        if is_alive {
            return backend;
        }
    }
    let way = transition.unpinned();
    if way.pins && maps::may_pin(Segment::Continues, seen.tick) {
        // If there is no room, the next packet tries again.
        let _ = maps::set_pin(key, &Pin::new(way.backend, seen));
    }
    way.backend
}

/// Where the flow's next packet would go.
#[inline(always)]
fn look(transition: &Transition, key: &FlowKey, marks: u32) -> u32 {
    if marks & !ONLY_LOOKS == 0 && !settings::records() {
        return transition.opening(true).backend;
    }
    if let Some(pin) = maps::pin(key)
        && is_alive(pin.backend)
    {
        return pin.backend;
    }
    if let Some(pin) = maps::opening_pin(key)
        && is_alive(pin.backend)
    {
        return pin.backend;
    }
    transition.unpinned().backend
}

/// Flows do not stay with a backend that is lost.
#[inline(always)]
fn is_alive(backend: u32) -> bool {
    maps::BACKENDS.get(backend).is_some_and(|backend| !backend.is_lost())
}
