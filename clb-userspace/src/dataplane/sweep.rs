//! What becomes of flows, pins and changes as time goes by: the walks over them, and the end of what is over.
//!
//! A change of slots' owners goes on for the listener's `drain`, then until no flow is pinned to another backend. A backend that
//! was unbound keeps its place until nothing leads to it. What must stay true: what a walk found counts only for listeners that
//! did not change since it began; and a time in which flows were not pinned for want of budget is none in which all were seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clb_common::{FlowHash, Phase};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Dataplane, GRACE, ListenerId, LiveListener,
    flows::Lifetime,
    pins::{Found, Look, Watched},
    ticks::ticks,
};
use crate::tracking::{Stage, TrackedSlot};

/// What the walks found.
pub struct Swept {
    /// The tick when they began.
    now: u32,
    /// By listener, as it was when they began.
    listeners: BTreeMap<ListenerId, Seen>,
    pins: Found,
    /// Flows of `full_nat` that are left, by backend.
    flows: BTreeMap<u32, u64>,
}

/// How long flows of a listener may be silent.
#[derive(Clone, Copy)]
pub struct Patience {
    /// Before they are over.
    pub idle_timeout: Duration,
    /// After a change of their slot's owner, before they are taken for over.
    pub drain: Duration,
}

/// A listener when the walks began.
struct Seen {
    index: u32,
    generation: u64,
    drain: Duration,
    /// Its changes that were settling.
    settling: BTreeSet<u32>,
    /// Its backends that could get no further flow.
    closed: BTreeSet<u32>,
}

/// What is at the backends, as of the last walks.
#[derive(Default)]
pub struct Left {
    /// Pins.
    pub pins: BTreeMap<u32, u64>,
    /// Flows of `full_nat`.
    pub flows: BTreeMap<u32, u64>,
    /// Backends that got no further flow since before they were looked at: no other flow is there than those that were found.
    pub closed: BTreeSet<u32>,
}

impl Left {
    /// Flows that are known of, pinned or remembered.
    pub fn flows(&self, backend: u32) -> u64 {
        [&self.pins, &self.flows].into_iter().filter_map(|flows| flows.get(&backend)).sum()
    }
}

impl Dataplane {
    /// Walks over flows and pins on a thread of its own, in the tick `now`; of each listener with its patience. What it
    /// finds is for `finish_sweep`.
    pub fn sweep(
        &self,
        now: u32,
        patience: impl Fn(ListenerId) -> Option<Patience>,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<Swept>>> {
        let mut lifetimes = BTreeMap::new();
        let mut seen = BTreeMap::new();
        let mut watched = BTreeMap::new();
        for (&id, live) in &self.listeners {
            let LiveListener { index, generation, .. } = *live;
            let Some(Patience { idle_timeout, drain }) = patience(id) else { continue };
            let lifetime = Lifetime { protocol: id.protocol, idle_timeout };
            lifetimes.insert(index, lifetime);
            watched.insert(index, live.watched(self, lifetime)?);
            seen.insert(id, Seen { index, generation, drain, settling: live.settling(), closed: self.closed(live) });
        }
        let lost = self.listeners.values().flat_map(|live| live.backends.values());
        let lost = lost.filter(|backend| backend.value.is_lost()).map(|backend| backend.index);
        let hash = FlowHash::from_seed(self.program.settings().hash_seed);
        let lost: BTreeSet<u32> = lost.collect();
        let look = Look { listeners: watched, lost: lost.clone(), hash, now };
        let (flows, pins) = (self.flows.clone(), self.pins.clone());
        Ok(spawn_blocking(move || {
            let flows = flows.sweep(&lifetimes, &lost, now)?;
            Ok(Swept { now, listeners: seen, pins: pins.look(&look)?, flows })
        }))
    }

    /// Ends what the walks found to be over.
    pub async fn finish_sweep(&mut self, swept: Swept) -> anyhow::Result<()> {
        let Swept { now, listeners: seen, mut pins, flows } = swept;
        self.end_moving(now, &seen)?;
        let unchanged: BTreeMap<ListenerId, Seen> = seen
            .into_iter()
            .filter(|(id, seen)| self.listeners.get(id).is_some_and(|live| live.generation == seen.generation))
            .collect();
        let indexes: BTreeSet<u32> = unchanged.values().map(|seen| seen.index).collect();
        for over in pins.over.iter().filter(|over| indexes.contains(&over.key.listener)) {
            // One that was used meanwhile holds up its change.
            if !self.pins.end(over)? {
                pins.unsettled.extend(over.holds_up);
                *pins.by_backend.entry(over.backend()).or_default() += 1;
            }
        }
        self.left.pins.clone_from(&pins.by_backend);
        self.left.flows.clone_from(&flows);
        if !pins.is_complete {
            return Ok(());
        }
        self.left.closed.extend(unchanged.values().flat_map(|seen| &seen.closed));
        let mut settled = Vec::new();
        let mut unneeded = Vec::new();
        for (&id, seen) in &unchanged {
            let over: BTreeSet<u32> = seen.settling.difference(&pins.unsettled).copied().collect();
            if !over.is_empty() {
                settled.push((id, over));
            }
            let has_flows = |index| pins.by_backend.contains_key(&index) || flows.contains_key(&index);
            let live = &self.listeners[&id];
            unneeded.extend(live.leaving(has_flows).into_iter().map(|backend| (id, backend)));
        }
        if settled.is_empty() && unneeded.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        for (id, over) in settled {
            self.make_stable(id, &over)?;
        }
        for (id, backend) in unneeded {
            let live = self.listeners.get_mut(&id).context("a listener that did not change is there")?;
            let gone = live.backends.remove_entry(&backend).into_iter().collect();
            let index = live.index;
            self.lose_backends(id, index, gone);
        }
        let removed = self.remove_lost_replies();
        self.last_change = Some(Instant::now());
        removed.and(self.give_back().await)
    }

    /// A listener's backends that can get no further flow, also not from a packet that is on its way through the program.
    fn closed(&self, live: &LiveListener) -> BTreeSet<u32> {
        if self.last_change.is_some_and(|last_change| last_change.elapsed() < GRACE) {
            return BTreeSet::new();
        }
        let moving = live.moving_until();
        let backends = live.backends.values().filter(|backend| backend.slots == 0);
        backends.map(|backend| backend.index).filter(|index| !moving.contains_key(index)).collect()
    }

    /// Flows that were not seen in all that time are over. While more flows show themselves than may be pinned, the time begins
    /// again: a flood ends no connection.
    fn end_moving(&mut self, now: u32, seen: &BTreeMap<ListenerId, Seen>) -> anyhow::Result<()> {
        let refused = self.maps.pins_refused()?;
        for (id, live) in &mut self.listeners {
            let Some(Seen { drain, .. }) = seen.get(id) else { continue };
            let not_before = refused + ticks(*drain);
            for (&index, change) in &mut live.changes {
                let is_over = now > change.transition.until.max(not_before);
                if change.transition.phase() != Phase::Settling && is_over {
                    change.transition = change.transition.settled();
                    self.maps.transitions.set(index, change.transition, 0).context("end the drain of a slot")?;
                    self.last_change = Some(Instant::now());
                }
            }
        }
        Ok(())
    }

    /// Has slots name their owners again, whose change is over.
    fn make_stable(&mut self, id: ListenerId, over: &BTreeSet<u32>) -> anyhow::Result<()> {
        let live = &self.listeners[&id];
        let slots = live.slots(&self.maps)?;
        let named = live.words(&self.maps)?;
        let stable = named.iter().zip(slots).map(|(word, slot)| match word.transition() {
            Some(index) if over.contains(&index) => TrackedSlot { stage: Stage::Stable, ..slot },
            _ => slot,
        });
        let stable = stable.collect();
        self.switch_slots(id, stable)
    }
}

impl LiveListener {
    fn settling(&self) -> BTreeSet<u32> {
        let settling = self.changes.iter().filter(|(_, change)| change.transition.phase() == Phase::Settling);
        settling.map(|(&index, _)| index).collect()
    }

    /// Backends whose old flows have time to show themselves, and the tick in which it ends.
    pub(super) fn moving_until(&self) -> BTreeMap<u32, u32> {
        let mut moving = BTreeMap::new();
        for change in self.changes.values() {
            if let Stage::Moving { previous, until } = TrackedSlot::of(&change.transition).stage {
                let latest = moving.entry(previous).or_insert(until);
                *latest = until.max(*latest);
            }
        }
        moving
    }

    fn watched(&self, of: &Dataplane, lifetime: Lifetime) -> anyhow::Result<Watched> {
        let slots = if self.changes.is_empty() { Vec::new() } else { self.words(&of.maps)? };
        let transitions = self.changes.iter().map(|(&index, change)| (index, change.transition)).collect();
        Ok(Watched { slots, transitions, lifetime })
    }
}
