//! Stage 3: the flow's slot names its backend.

use clb_common::{Backend, DropReason, SLOTS_PER_BLOCK, SlotTable, slot_of};

use crate::maps;

/// The backend of a flow.
#[derive(Clone, Copy)]
pub struct Selected<'a> {
    pub index: u32,
    pub backend: &'a Backend,
}

/// Selects the backend of the flow with this hash.
#[inline(always)]
pub fn backend(table: &SlotTable, hash: u32) -> Result<Selected<'static>, DropReason> {
    let SlotTable { first_block, slots, .. } = *table;
    if slots == 0 {
        return Err(DropReason::NoBackend);
    }
    let slot = slot_of(hash, slots);
    let block = maps::SLOTS.get(first_block + slot / SLOTS_PER_BLOCK).ok_or(DropReason::InconsistentMaps)?;
    at(block.0[(slot % SLOTS_PER_BLOCK) as usize])
}

/// The backend with this index.
#[inline(always)]
pub fn at(index: u32) -> Result<Selected<'static>, DropReason> {
    let backend = maps::BACKENDS.get(index).ok_or(DropReason::InconsistentMaps)?;
    Ok(Selected { index, backend })
}
