//! The contract between clb's XDP program and its agent.
//!
//! What both sides must agree on is defined here and nowhere else: map keys and values, the flow hash, checksum
//! arithmetic, drop reasons and counters. Shared structs have a fixed layout without padding; zerocopy's derives refuse
//! to compile one that has any.

#![no_std]

mod address;
mod backend;
pub mod bench;
mod budget;
pub mod checksum;
mod counters;
pub mod decap;
mod drop_reason;
mod endpoint;
mod endpoint_index;
mod flow;
mod flow_hash;
mod forwarding;
mod fragment;
mod listener;
mod next_hop;
#[cfg(feature = "agent")]
mod pod;
mod pool;
mod reply;
mod report;
mod slot;
mod stage;
mod switch;
mod too_big;
mod tracking;

pub use address::{Address, Port};
pub use backend::{Backend, BackendNextHop};
pub use budget::Budget;
pub use counters::{BackendTraffic, EVENT_COUNTERS, Event, Traffic, VERDICT_COUNTERS, VerdictCounter};
pub use drop_reason::DropReason;
pub use endpoint::{Endpoint, Protocol};
pub use endpoint_index::{EndpointEntry, MOST_PROBES, Place, places, probes};
pub use flow::{Flow, FlowKey, Return, ReturnKey, Seen, TICK_SHIFT};
pub use flow_hash::FlowHash;
pub use forwarding::{ForwardingMode, Version};
pub use fragment::{FRAGMENT_TICKS, FragmentKey, FragmentNote, FragmentWay};
pub use listener::{Listener, SlotTable};
pub use next_hop::NextHop;
pub use pool::{FIRST_POOL_PORT, POOL_ADDRESSES, Pool};
pub use reply::Reply;
pub use report::{About, Report};
pub use slot::{SLOTS_PER_BLOCK, SlotBlock, slot_of};
pub use stage::{STAGES, Stage};
pub use too_big::{TOO_BIG_PER_TICK, TooBig};
pub use tracking::{
    NOBODY, OPENING_PINS, OPENING_PINS_PER_TICK, PINS, PINS_PER_TICK, Phase, Pin, PinBudget, Segment, Slot, Transition,
    Way,
};

/// Counts the layouts of the maps that outlive an agent. Another agent takes over only those of its own number: it is to be raised
/// whenever a key or value, or what one means, becomes another.
pub const LAYOUT_VERSION: u32 = 1;
