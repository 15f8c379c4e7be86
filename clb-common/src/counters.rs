//! What is counted, and where. All counters are per CPU and never wrap in practice; the agent adds them up when asked.
//!
//! Every packet is counted once: as passed, as answered by clb itself, as sent for one backend (forwarded or as its
//! reply), or under one drop reason. So packets in = passed + answered + sent + dropped, exactly.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::DropReason;

/// Packets and their bytes, from the Ethernet header on, as they came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Traffic {
    /// Number of packets.
    pub packets: u64,
    /// Sum of their lengths.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one packet.
    #[inline(always)]
    pub const fn count(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }
}

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, Self { packets, bytes }: Self) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

/// An element of the backend counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct BackendTraffic {
    /// From clients to the backend.
    pub forwarded: Traffic,
    /// From the backend to clients, in modes whose replies come back through clb.
    pub replies: Traffic,
}

impl core::ops::AddAssign for BackendTraffic {
    fn add_assign(&mut self, Self { forwarded, replies }: Self) {
        self.forwarded += forwarded;
        self.replies += replies;
    }
}

/// Number of elements of the verdict counters.
pub const VERDICT_COUNTERS: u32 = 2 + DropReason::ALL.len() as u32;

/// Index into the verdict counters, for packets that were not sent for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictCounter {
    /// The packet is none of clb's business.
    Passed,
    /// An echo request to a VIP: clb itself answered.
    Answered,
    /// The packet was for a listener, or a reply from a backend, and could not be sent.
    Dropped(DropReason),
}

impl VerdictCounter {
    /// The element's index.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Passed => 0,
            Self::Answered => 1,
            Self::Dropped(reason) => 2 + reason as u32,
        }
    }
}

/// Number of elements of the event counters.
pub const EVENT_COUNTERS: u32 = Event::ALL.len() as u32;

/// What else is counted, beside the packets: index into the event counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The sender of a packet that was too big was told so.
    TooBigSent = 0,
    /// It was not, because there had been too many such messages in the same second.
    TooBigSuppressed = 1,
}

impl Event {
    /// All events, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::TooBigSent, Self::TooBigSuppressed];

    /// The name in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooBigSent => "too-big-sent",
            Self::TooBigSuppressed => "too-big-suppressed",
        }
    }
}
