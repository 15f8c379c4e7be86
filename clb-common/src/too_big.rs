//! How often clb tells senders that their packets are too big, and what it tells them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Budget;

/// What one CPU may still send, and about the packet that it is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct TooBig {
    /// The messages of this tick.
    pub messages: Budget,
    /// The largest packet that fits.
    pub mtu: u32,
}

/// So many messages a tick and CPU. Linux sends 1,000 ICMP messages a second.
pub const TOO_BIG_PER_TICK: u32 = 1_000;
