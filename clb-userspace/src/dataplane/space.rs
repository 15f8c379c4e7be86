//! What of the maps is in use, and how large they are.

use std::collections::BTreeMap;

use clb_common::SLOTS_PER_BLOCK;

use super::{ListenerId, regions::Regions};
use crate::control::DesiredListener;

/// What of the maps is in use.
#[derive(Clone)]
pub struct Space {
    pub listeners: Regions,
    pub backends: Regions,
    pub blocks: Regions,
    pub transitions: Regions,
    /// The place of a backend that never is: where that is counted which those that are gone had counted.
    pub gone: u32,
}

impl Space {
    /// All of it is free.
    pub fn new(capacity: &Capacity) -> Self {
        Self {
            listeners: Regions::new(capacity.listeners),
            backends: Regions::new(capacity.backends - 1),
            blocks: Regions::new(capacity.blocks),
            transitions: Regions::new(capacity.transitions),
            gone: capacity.backends - 1,
        }
    }

    /// Makes free what was retired.
    pub fn reclaim(&mut self) {
        let Self { listeners, backends, blocks, transitions, gone: _ } = self;
        for regions in [listeners, backends, blocks, transitions] {
            regions.reclaim();
        }
    }
}

/// How much the maps hold.
pub struct Capacity {
    pub listeners: u32,
    pub backends: u32,
    pub blocks: u32,
    pub transitions: u32,
    /// The modes that the program has to know, each a bit.
    pub modes: u32,
}

impl Capacity {
    /// Twice what is needed now, since a change is prepared beside the live state, and room to grow. No more than so many more
    /// backends: a change of all of them at once is of their slots, and a counter of each CPU costs time to make.
    pub fn for_listeners(desired: &BTreeMap<ListenerId, DesiredListener>) -> Self {
        let backends: usize = desired.values().map(|listener| listener.weights.len()).sum();
        let used: u32 = desired.values().map(|listener| blocks(listener.slots)).sum();
        Self {
            listeners: desired.len() as u32 * 2 + 256,
            backends: backends as u32 + (backends as u32).min(MOST_SPARE_BACKENDS) + 1_024,
            blocks: used * 2 + 16 * blocks(65_537),
            transitions: (used * SLOTS_PER_BLOCK).clamp(MOST_SLOTS, MOST_TRANSITIONS),
            modes: desired.values().fold(0, |modes, listener| modes | listener.mode.bit()),
        }
    }
}

/// The blocks of a table with so many slots.
pub const fn blocks(slots: u32) -> u32 {
    slots.div_ceil(SLOTS_PER_BLOCK)
}

/// As many as the largest table can have.
const MOST_SLOTS: u32 = 65_537;
const MOST_SPARE_BACKENDS: u32 = 1 << 17;
/// 16 MiB. More changes of different backends at the same time have no room: see `switch_slots`.
const MOST_TRANSITIONS: u32 = 1 << 20;

pub const FULL: &str = "the maps have no room for this change\n\
                        help: they were sized for the first file: `clb detach`, then start clb again with the new one";
