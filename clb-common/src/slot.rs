//! Slot tables: one flat array for all listeners, each table a run of whole blocks in it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Slot;

/// Slots in one element of the slot map. The kernel rounds an element up to eight bytes, so single slots would take
/// twice their size in cache; and the agent writes a table with one system call a block.
pub const SLOTS_PER_BLOCK: u32 = 256;

/// A run of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct SlotBlock(pub [Slot; SLOTS_PER_BLOCK as usize]);

/// The slot of a flow in a table of `slots`: scales the hash to the table without a division.
#[inline(always)]
pub const fn slot_of(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}
