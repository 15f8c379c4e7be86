//! The contract between clb's XDP program and its agent.
//!
//! What both sides must agree on is defined here and nowhere else: map keys and values, the flow hash, checksum
//! arithmetic, drop reasons and counters. Shared structs have a fixed layout without padding; zerocopy's derives refuse
//! to compile one that has any.

#![no_std]

mod address;
mod backend;
pub mod bench;
pub mod checksum;
mod counters;
mod drop_reason;
mod endpoint;
mod flow_hash;
mod listener;
#[cfg(feature = "agent")]
mod pod;
mod reply;
mod slot;
mod switch;

pub use address::{Address, Port};
pub use backend::{Backend, BackendNextHop, ForwardingMode, NextHop};
pub use counters::{BackendTraffic, Traffic, VERDICT_COUNTERS, VerdictCounter};
pub use drop_reason::DropReason;
pub use endpoint::{Endpoint, Protocol};
pub use flow_hash::FlowHash;
pub use listener::{Listener, SlotTable};
pub use reply::Reply;
pub use slot::{SLOTS_PER_BLOCK, SlotBlock, slot_of};
