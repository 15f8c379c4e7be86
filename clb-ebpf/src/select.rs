//! Stage 3: the flow's slot names its backend, or the change of its owner that may still concern the flow.

use clb_common::{Backend, DropReason, Endpoint, FlowKey, NOBODY, SLOTS_PER_BLOCK, Slot, SlotTable, slot_of};

use crate::{listener::Found, maps, track};

/// The backend of a flow.
#[derive(Clone, Copy)]
pub struct Selected<'a> {
    pub index: u32,
    pub backend: &'a Backend,
}

/// The backend of a flow with a listener. Who the client is and what its packet shows matter only if the slot's owner has changed.
#[inline(always)]
pub fn backend(
    listener: &Found,
    hash: u32,
    client: impl FnOnce() -> Endpoint,
    marks: impl FnOnce() -> Result<u32, DropReason>,
) -> Result<Selected<'static>, DropReason> {
    let slot = slot(listener.table, hash)?;
    // One look-up for both, so that the verifier goes the rest of the way once.
    owner(match slot.transition() {
        None => slot.backend(),
        Some(transition) => track::backend(transition, &FlowKey::new(client(), listener.index), marks()?),
    })
}

/// The backend that a new flow gets.
#[inline(always)]
pub fn newest(listener: &Found, hash: u32) -> Result<Selected<'static>, DropReason> {
    let slot = slot(listener.table, hash)?;
    owner(match slot.transition() {
        None => slot.backend(),
        Some(index) => maps::TRANSITIONS.get(index).ok_or(DropReason::InconsistentMaps)?.current & NOBODY,
    })
}

#[inline(always)]
fn slot(table: &SlotTable, hash: u32) -> Result<Slot, DropReason> {
    let SlotTable { first_block, slots, .. } = *table;
    if slots == 0 {
        return Err(DropReason::NoBackend);
    }
    let slot = slot_of(hash, slots);
    let block = maps::SLOTS.get(first_block + slot / SLOTS_PER_BLOCK).ok_or(DropReason::InconsistentMaps)?;
    Ok(block.0[(slot % SLOTS_PER_BLOCK) as usize])
}

/// The backend with the index that a slot or a change of one names.
#[inline(always)]
fn owner(index: u32) -> Result<Selected<'static>, DropReason> {
    at(index).map_err(|reason| if index == NOBODY { DropReason::NoBackend } else { reason })
}

/// The backend with this index.
#[inline(always)]
pub fn at(index: u32) -> Result<Selected<'static>, DropReason> {
    let backend = maps::BACKENDS.get(index).ok_or(DropReason::InconsistentMaps)?;
    Ok(Selected { index, backend })
}
