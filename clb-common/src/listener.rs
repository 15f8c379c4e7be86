//! A listener, as the program sees it: the VIP's [`crate::Endpoint`] leads to the listener's index, and that to the slot
//! table in force.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ForwardingMode, switch::switched};

/// A slot table's place in the slot map, and how packets reach the backends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct SlotTable {
    /// Where it begins, in blocks.
    pub first_block: u32,
    /// Its number of slots; 0 if no backend takes connections.
    pub slots: u32,
    /// A [`ForwardingMode`] by its number.
    mode: u32,
}

impl SlotTable {
    /// The table of a listener without backends.
    pub const EMPTY: Self = Self { first_block: 0, slots: 0, mode: ForwardingMode::Dsr as u32 };

    /// A table that begins at this block.
    pub const fn new(first_block: u32, slots: u32, mode: ForwardingMode) -> Self {
        Self { first_block, slots, mode: mode as u32 }
    }

    /// How packets reach the backends.
    pub fn mode(&self) -> Option<ForwardingMode> {
        ForwardingMode::ALL.into_iter().find(|&mode| self.is(mode))
    }

    /// Whether packets reach the backends in this mode.
    #[inline(always)]
    pub const fn is(&self, mode: ForwardingMode) -> bool {
        self.mode == mode as u32
    }
}

switched!(
    /// An element of the listener map. Its index is the listener's place in the traffic counters, too.
    Listener of SlotTable
);
