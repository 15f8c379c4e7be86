//! Stage 2: whose packet is it? A miss is the host's own traffic.

use clb_common::{Address, Endpoint, SlotTable, Version};

use crate::{maps, packet::Offsets};

/// The listener of a packet.
pub struct Found<'a> {
    pub index: u32,
    pub table: &'a SlotTable,
}

/// Finds the listener with this endpoint.
#[inline(always)]
pub fn find(endpoint: &Endpoint, offsets: Offsets) -> Option<Found<'static>> {
    at(maps::listener_index(endpoint, offsets))
}

/// The listener with this index.
#[inline(always)]
pub fn at(index: u32) -> Option<Found<'static>> {
    let table = maps::LISTENERS.get(index)?.current();
    Some(Found { index, table })
}

/// Whether clients connect to this address.
#[inline(always)]
pub fn is_vip(version: Version, address: Address) -> bool {
    find(&Endpoint::whole(version, address), Offsets::Variable).is_some()
}
