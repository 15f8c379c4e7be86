//! The agent's side of `clb_common::EndpointEntry`: a table of endpoints that is changed under traffic.
//!
//! What must stay true: a packet finds an endpoint that stays at any moment, and an entry that it may be reading changes in the one
//! byte that says whose place it is. So a place that was left is given to nobody before `reclaim`, whose caller knows that enough
//! time has passed.

use std::collections::HashMap;

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use clb_common::{Endpoint, EndpointEntry, Place, probes};

use super::{maps::take, space::FULL};

/// From endpoints to indexes.
pub struct EndpointTable {
    map: Array<MapData, EndpointEntry>,
    mask: u32,
    /// As they stand in the map: taken ones by their endpoint.
    taken: HashMap<Endpoint, (u32, u32)>,
    /// Places where packets look on.
    used: HashMap<u32, Use>,
    leaving: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Taken,
    /// A packet that began before may still be reading it.
    Leaving,
    Left,
}

impl EndpointTable {
    /// Takes an empty table out of a loaded object.
    pub fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Self> {
        let map: Array<MapData, EndpointEntry> = take(ebpf, name)?;
        let mask = map.len() - 1;
        Ok(Self { map, mask, taken: HashMap::new(), used: HashMap::new(), leaving: Vec::new() })
    }

    /// Learns what another agent left in it.
    pub fn adopt(&mut self) -> anyhow::Result<()> {
        for place in 0..=self.mask {
            let entry = self.entry(place)?;
            if entry.is_end() {
                continue;
            }
            self.used.insert(place, Use::Left);
            if !entry.is_taken() {
                continue;
            }
            // An agent that ended between two writes may have left two, of which packets find the first.
            if self.find(&entry.endpoint)? == Some(place) {
                self.used.insert(place, Use::Taken);
                self.taken.insert(entry.endpoint, (place, entry.index));
            } else {
                self.leave(place)?;
            }
        }
        Ok(())
    }

    /// The index of an endpoint.
    pub fn get(&self, endpoint: &Endpoint) -> Option<u32> {
        self.taken.get(endpoint).map(|&(_, index)| index)
    }

    /// All endpoints and their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (Endpoint, u32)> {
        self.taken.iter().map(|(&endpoint, &(_, index))| (endpoint, index))
    }

    /// Leads an endpoint to this index, from one moment to the next if it led to another.
    pub fn insert(&mut self, endpoint: Endpoint, index: u32) -> anyhow::Result<()> {
        let before = self.taken.get(&endpoint).copied();
        if before.is_some_and(|(_, before)| before == index) {
            return Ok(());
        }
        let is_open = |place: &u32| self.used.get(place).is_none_or(|&of| of == Use::Left);
        let place = probes(&endpoint, self.mask).find(is_open).context(FULL)?;
        let state = if self.used.contains_key(&place) { Place::Left } else { Place::Free };
        for state in [state, Place::Taken] {
            self.map.set(place, EndpointEntry::new(endpoint, index, state), 0).context("write an endpoint")?;
        }
        self.used.insert(place, Use::Taken);
        self.taken.insert(endpoint, (place, index));
        before.map_or(Ok(()), |(place, _)| self.leave(place))
    }

    /// Leads an endpoint nowhere.
    pub fn remove(&mut self, endpoint: &Endpoint) -> anyhow::Result<()> {
        let (place, _) = self.taken.remove(endpoint).context("the endpoint is there")?;
        self.leave(place)
    }

    /// Makes free what was left. What ends a way that packets look along is no stop on it any more.
    pub fn reclaim(&mut self) -> anyhow::Result<()> {
        for mut place in std::mem::take(&mut self.leaving) {
            self.used.insert(place, Use::Left);
            while self.used.get(&place) == Some(&Use::Left)
                && !self.used.contains_key(&(place.wrapping_add(1) & self.mask))
            {
                self.map.set(place, self.entry(place)?.at(Place::Free), 0).context("free an endpoint's place")?;
                self.used.remove(&place);
                place = place.wrapping_sub(1) & self.mask;
            }
        }
        Ok(())
    }

    fn leave(&mut self, place: u32) -> anyhow::Result<()> {
        self.used.insert(place, Use::Leaving);
        self.leaving.push(place);
        self.map.set(place, self.entry(place)?.at(Place::Left), 0).context("clear an endpoint")
    }

    /// Where packets find an endpoint.
    fn find(&self, endpoint: &Endpoint) -> anyhow::Result<Option<u32>> {
        for place in probes(endpoint, self.mask) {
            let entry = self.entry(place)?;
            if entry.is_of(endpoint) {
                return Ok(Some(place));
            }
            if entry.is_end() {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn entry(&self, place: u32) -> anyhow::Result<EndpointEntry> {
        self.map.get(&place, 0).context("read an endpoint")
    }
}
