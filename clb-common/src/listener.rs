//! A listener, as the program sees it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The value of the listener map, found by the VIP's [`crate::Endpoint`]. One update of it switches a listener from one
/// slot table to another, so a packet sees either the old table or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Listener {
    /// The listener's place in the traffic counters.
    pub index: u32,
    /// Where its slot table begins in the slot map, in blocks.
    pub first_block: u32,
    /// The number of slots; 0 if no backend takes connections.
    pub slots: u32,
}
