//! The pins of flows on slots whose owner has changed. The program makes and marks them; the agent walks over them now and
//! then, ends those that nobody needs any more, and finds which changes are over.
//!
//! The walk has a thread of its own and looks at listeners as they were when it began. What must stay true: a pin is ended, and
//! a change is over, only if its listener is still as it was then. So the walk ends nothing itself: it tells the agent's loop
//! what is over, and the loop alone changes listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use clb_common::{FlowHash, FlowKey, PINS, Phase, Pin, Protocol, Seen, Slot, Transition, slot_of};
use tokio::task::spawn_blocking;

use super::{
    flows::{Gone, Lifetime},
    maps::{remove, take},
    ticks::ticks,
};

/// The pins of a loaded object.
#[derive(Clone)]
pub struct PinTable {
    tables: Arc<Mutex<Tables>>,
    remembered: Arc<AtomicU64>,
}

/// Pins of flows that showed a SYN only, and of others. In the order of the walk: a pin that moves from one to the other
/// meanwhile is seen.
struct Tables([HashMap<MapData, FlowKey, Pin>; 2]);

/// A listener as it is when a walk begins.
pub struct Watched {
    /// Its slots, as they stand in the map. None if no owner changed.
    pub slots: Vec<Slot>,
    /// The changes that its slots name.
    pub transitions: BTreeMap<u32, Transition>,
    /// When a flow is over.
    pub lifetime: Lifetime,
}

/// What a walk looks at.
pub struct Look {
    /// By index.
    pub listeners: BTreeMap<u32, Watched>,
    /// Backends that are lost, by index.
    pub lost: BTreeSet<u32>,
    /// The hash of the flows.
    pub hash: FlowHash,
    /// The tick that it is.
    pub now: u32,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// Pins that nobody needs.
    pub over: Vec<Over>,
    /// Settling changes with a pin to another backend than the slot's owner.
    pub unsettled: BTreeSet<u32>,
    /// Pins that stay, by backend.
    pub by_backend: BTreeMap<u32, u64>,
    /// Whether all pins were seen.
    pub is_complete: bool,
}

/// A pin that nobody needs.
#[derive(Debug)]
pub struct Over {
    which: Which,
    /// Its flow.
    pub key: FlowKey,
    pin: Pin,
    /// The change of its slot, if it holds that up.
    pub holds_up: Option<u32>,
}

/// One of the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Of flows that showed a SYN only.
    Opening = 0,
    /// Of others.
    Others = 1,
}

impl Over {
    /// The backend that its flow stayed with.
    pub const fn backend(&self) -> u32 {
        self.pin.backend
    }
}

impl PinTable {
    /// Takes the pins out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let tables = Tables([take(ebpf, "OPENING_PINS")?, take(ebpf, "PINS")?]);
        Ok(Self { tables: Arc::new(Mutex::new(tables)), remembered: Arc::default() })
    }

    /// Which listeners have pins to which backends.
    pub fn references(&self) -> anyhow::Result<BTreeSet<(u32, u32)>> {
        let Tables(tables) = &*self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = BTreeSet::new();
        for table in tables {
            // Newcomers may make the walk begin again for ever, but only to backends that slots lead to.
            walk(table, |key, pin| found.extend([(key.listener, pin.backend)]))?;
        }
        Ok(found)
    }

    /// Walks over all pins and ends none.
    pub fn look(&self, look: &Look) -> anyhow::Result<Found> {
        let found = self.tables.lock().unwrap_or_else(PoisonError::into_inner).look(look)?;
        self.remembered.store(found.by_backend.values().sum(), Ordering::Relaxed);
        Ok(found)
    }

    /// Ends a pin if it still is as it was, and says whether it was.
    pub fn end(&self, Over { which, key, pin, .. }: &Over) -> anyhow::Result<bool> {
        let Tables(tables) = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut tables[*which as usize];
        let is_same = table.get(key, 0).is_ok_and(|now| now == *pin);
        if is_same {
            remove(table, key)?;
        }
        Ok(is_same)
    }

    /// Ends the pins of what is gone.
    pub async fn clear(&self, of: Gone) -> anyhow::Result<()> {
        let table = self.clone();
        let cleared = spawn_blocking(move || {
            let Tables(tables) = &mut *table.tables.lock().unwrap_or_else(PoisonError::into_inner);
            let is_gone = |key: &FlowKey, pin: &Pin| {
                of.listeners.contains(&key.listener) || of.backends.contains_key(&pin.backend)
            };
            for table in tables {
                let mut over = Vec::new();
                walk(table, |key, pin| over.extend(is_gone(&key, &pin).then_some(key)))?;
                over.iter().try_for_each(|key| remove(table, key))?;
            }
            anyhow::Ok(())
        });
        cleared.await.context("clear pins")?
    }

    /// How many pins there were after the last walk.
    pub fn remembered(&self) -> u64 {
        self.remembered.load(Ordering::Relaxed)
    }
}

impl Tables {
    fn look(&self, look: &Look) -> anyhow::Result<Found> {
        let mut found = Found { is_complete: true, ..Found::default() };
        for (which, table) in [Which::Opening, Which::Others].into_iter().zip(&self.0) {
            found.is_complete &= walk(table, |key, pin| found_one(look, which, key, pin, &mut found))?;
        }
        Ok(found)
    }
}

fn found_one(look: &Look, which: Which, key: FlowKey, pin: Pin, found: &mut Found) {
    let Some(listener) = look.listeners.get(&key.listener) else { return };
    let transition = listener.transition(look, &key);
    let holds_up = transition.filter(|(_, transition)| transition.phase() == Phase::Settling);
    // Its flow is where the slot sends it anyway.
    let is_needless = match transition {
        None => true,
        Some((_, transition)) => holds_up.is_some() && pin.backend == transition.current,
    };
    let holds_up = holds_up.map(|(index, _)| index).filter(|_| !is_needless);
    let is_over =
        is_needless || look.lost.contains(&pin.backend) || has_ended(listener.lifetime, which, pin.seen, look.now);
    if is_over && found.over.len() < MOST_ENDED {
        found.over.push(Over { which, key, pin, holds_up });
    } else if !is_needless {
        *found.by_backend.entry(pin.backend).or_default() += 1;
        found.unsettled.extend(holds_up);
    }
}

impl Watched {
    fn transition(&self, look: &Look, key: &FlowKey) -> Option<(u32, &Transition)> {
        let slot = slot_of(look.hash.of(&key.client), self.slots.len() as u32);
        let index = self.slots.get(slot as usize)?.transition()?;
        Some((index, self.transitions.get(&index)?))
    }
}

/// Whether a pin is of a flow that is over. Only the client's direction was seen, so a FIN does not say that.
fn has_ended(Lifetime { protocol, idle_timeout }: Lifetime, which: Which, seen: Seen, now: u32) -> bool {
    let limit = match (protocol, which) {
        (Protocol::Tcp, _) if seen.marks & Seen::RESET != 0 => AFTER_RESET.min(idle_timeout),
        (Protocol::Tcp, _) if seen.marks & Seen::FINISHED != 0 => AFTER_FINISHED.min(idle_timeout),
        (Protocol::Tcp, Which::Opening) => AFTER_SYN.min(idle_timeout),
        _ => idle_timeout,
    };
    now.saturating_sub(seen.tick) > ticks(limit)
}

/// Calls for each entry, and says whether it came to the end: a flood of new entries may begin the walk again.
fn walk(table: &HashMap<MapData, FlowKey, Pin>, mut each: impl FnMut(FlowKey, Pin)) -> anyhow::Result<bool> {
    for (number, entry) in table.iter().enumerate() {
        if number > MOST_WALKED {
            return Ok(false);
        }
        let (key, pin) = entry.context("walk over the pins")?;
        each(key, pin);
    }
    Ok(true)
}

/// At the end of one walk, so that the agent's loop goes on soon. The others end after the next one.
const MOST_ENDED: usize = 8_192;
const MOST_WALKED: usize = 2 * PINS as usize;
/// Longer than Linux keeps a closed socket whose other side is silent.
const AFTER_FINISHED: Duration = Duration::from_mins(2);
const AFTER_RESET: Duration = Duration::from_secs(2);
const AFTER_SYN: Duration = Duration::from_secs(30);
