//! Stage 2: whose packet is it? A miss is the host's own traffic.

use clb_common::SlotTable;

use crate::{family::Family, maps, parse::Headers};

/// The listener of a packet.
pub struct Found<'a> {
    pub index: u32,
    pub table: &'a SlotTable,
}

/// Finds the listener of the packet's destination.
#[inline(always)]
pub fn find<F: Family>(headers: &Headers<F>) -> Option<Found<'static>> {
    let index = maps::listener_index(&headers.destination())?;
    let table = maps::LISTENERS.get(index)?.current();
    Some(Found { index, table })
}
