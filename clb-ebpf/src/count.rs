//! Stage 5: per CPU, per listener, per backend and per drop reason.

use clb_common::{BackendTraffic, Traffic, VerdictCounter};

use crate::maps;

/// Counts a packet for a listener, whatever becomes of it.
#[inline(always)]
pub fn arrived(listener: u32, bytes: u64) {
    maps::with(&maps::LISTENER_TRAFFIC, listener, |traffic: &mut Traffic| traffic.count(bytes));
}

/// Counts a packet that is sent to a backend.
#[inline(always)]
pub fn forwarded(backend: u32, bytes: u64) {
    maps::with(&maps::BACKEND_TRAFFIC, backend, |traffic: &mut BackendTraffic| traffic.forwarded.count(bytes));
}

/// Counts a backend's reply that is sent to a client.
#[inline(always)]
pub fn replied(backend: u32, bytes: u64) {
    maps::with(&maps::BACKEND_TRAFFIC, backend, |traffic: &mut BackendTraffic| traffic.replies.count(bytes));
}

/// Counts a packet that is not sent.
#[inline(always)]
pub fn unsent(verdict: VerdictCounter) {
    maps::with(&maps::VERDICTS, verdict.index(), |packets: &mut u64| *packets += 1);
}
