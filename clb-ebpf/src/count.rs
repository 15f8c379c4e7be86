//! Stage 5: per CPU, per listener, per backend and per drop reason.

use clb_common::{BackendTraffic, Event, Traffic, VerdictCounter};

use crate::{maps, verdict::Outcome};

/// Counts a packet for a listener unless it is sent: what is sent is counted for a backend, which is one listener's.
#[inline(always)]
pub fn unless_sent(listener: u32, bytes: u32, outcome: Outcome) -> Outcome {
    if outcome.is_err() {
        maps::with(&maps::LISTENER_TRAFFIC, listener, |traffic: &mut Traffic| traffic.count(bytes.into()));
    }
    outcome
}

/// Counts a packet that is sent to a backend.
#[inline(always)]
pub fn forwarded(backend: u32, bytes: u32) {
    maps::with(&maps::BACKEND_TRAFFIC, backend, |traffic: &mut BackendTraffic| {
        traffic.forwarded.count(bytes.into());
    });
}

/// Counts a backend's reply that is sent to a client.
#[inline(always)]
pub fn replied(backend: u32, bytes: u32) {
    maps::with(&maps::BACKEND_TRAFFIC, backend, |traffic: &mut BackendTraffic| traffic.replies.count(bytes.into()));
}

/// Counts a packet that is not sent for a backend.
#[inline(always)]
pub fn unsent(verdict: VerdictCounter) {
    maps::with(&maps::VERDICTS, verdict.index(), |packets: &mut u64| *packets += 1);
}

/// Counts an event beside the packets.
#[inline(always)]
pub fn event(event: Event) {
    maps::with(&maps::EVENTS, event as u32, |events: &mut u64| *events += 1);
}
