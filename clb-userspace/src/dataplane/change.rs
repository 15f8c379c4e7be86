//! One listener's change: prepared beside what is in force, and made visible to packets by one switch.
//!
//! What must stay true: until the switch no packet sees any of it, and no other listener is written. Backends that are bound no
//! more keep their places as long as flows may lead to them; `sweep` takes them away.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::SocketAddr,
};

use anyhow::{Context as _, bail};
use clb_common::{
    Backend, Endpoint, ForwardingMode, Listener, NOBODY, Phase, Port, Reply, Slot, SlotTable, Transition,
};
use tracing::warn;

use super::{
    Dataplane, ListenerId, LiveBackend, LiveListener, Resolve, SlotChange,
    maps::Maps,
    now,
    space::{FULL, Space, blocks},
    ticks,
};
use crate::{
    control::{DesiredListener, Step},
    slots::BackendId,
    tracking::{Stage, TrackedSlot},
};

impl Dataplane {
    /// Tries a plan's allocations on a copy.
    pub(super) fn check_room(&self, steps: &[Step]) -> anyhow::Result<()> {
        let mut space = self.space.clone();
        for step in steps {
            let (listener, to) = match step {
                Step::AddListener { listener, to } => {
                    space.listeners.allocate(1).context(FULL)?;
                    (listener, to)
                }
                Step::ChangeListener { listener, to } => (listener, to),
                Step::RemoveListener { .. } => continue,
            };
            let live = self.listeners.get(listener);
            let added = to.weights.keys().filter(|id| live.is_none_or(|live| !live.keeps(id, to.mode)));
            for _ in added {
                space.backends.allocate(1).context(FULL)?;
            }
            space.blocks.allocate(blocks(to.slots)).context(FULL)?;
        }
        Ok(())
    }

    pub(super) fn add_listener(
        &mut self,
        id: ListenerId,
        to: &DesiredListener,
        owners: &[u32],
        resolve: &Resolve<'_>,
    ) -> anyhow::Result<()> {
        let index = self.space.listeners.allocate(1).context(FULL)?;
        self.maps.clear_listener_traffic(index)?;
        let empty = DesiredListener { drain: to.drain, ..DesiredListener::new(to.mode, to.slots, BTreeMap::new()) };
        let live = LiveListener {
            desired: empty,
            index,
            table: SlotTable::EMPTY,
            generation: 0,
            changes: BTreeMap::new(),
            backends: BTreeMap::new(),
        };
        self.maps.listeners.set(index, Listener::new(live.table), 0).context("write a listener")?;
        self.listeners.insert(id, live);
        self.change_listener(id, to, owners, resolve)?;
        // First the VIP: a packet for the listener may be an ICMP error. Any index will do for it.
        let vip = Endpoint::of_address(id.vip);
        if self.maps.listener_indexes.get(&vip).is_none() {
            self.maps.listener_indexes.insert(vip, index).context("publish a VIP")?;
        }
        self.maps.listener_indexes.insert(id.endpoint(), index).with_context(|| format!("publish listener {id}"))
    }

    /// `owners` are the slots' by their places among the backends.
    pub(super) fn change_listener(
        &mut self,
        id: ListenerId,
        to: &DesiredListener,
        owners: &[u32],
        resolve: &Resolve<'_>,
    ) -> anyhow::Result<()> {
        let Self { maps, listeners, space, .. } = self;
        let live = listeners.get_mut(&id).with_context(|| format!("listener {id} is there"))?;
        let before = live.slots(maps)?;
        let has_same_mode = live.desired.mode == to.mode;
        let old = if has_same_mode { BTreeMap::new() } else { std::mem::take(&mut live.backends) };
        for &backend in to.weights.keys().filter(|id| !has_same_mode || !live.desired.weights.contains_key(id)) {
            let bound = match live.backends.entry(backend) {
                Entry::Occupied(bound_before) => bound_before.into_mut(),
                Entry::Vacant(vacant) => vacant.insert(add_backend(maps, space, backend, to.mode, resolve)?),
            };
            if to.mode == ForwardingMode::Nat {
                let reply = Reply::new(id.vip.into(), Port::new(id.port));
                maps.replies.set(bound.index, reply, 0).context("write a backend's way back")?;
                maps.reply_indexes
                    .insert(reply_endpoint(id, backend), bound.index)
                    .context("publish a backend's way back")?;
            }
        }
        live.mark_lost(maps, &to.lost)?;
        let before = if has_same_mode { before } else { Vec::new() };
        live.desired = to.clone();
        let slots = live.assign(&before, owners)?;
        let index = live.index;
        self.switch_slots(id, slots)?;
        self.lose_backends(id, index, old);
        Ok(())
    }

    pub(super) fn remove_listener(&mut self, id: ListenerId) -> anyhow::Result<()> {
        let Some(live) = self.listeners.remove(&id) else { bail!("listener {id} is there") };
        self.maps.listener_indexes.remove(&id.endpoint()).with_context(|| format!("remove listener {id}"))?;
        if !self.listeners.keys().any(|other| other.vip == id.vip) {
            self.maps.listener_indexes.remove(&Endpoint::of_address(id.vip)).context("remove a VIP")?;
        }
        self.lost.listeners.insert(live.index);
        self.space.blocks.retire(live.table.first_block, blocks(live.table.slots));
        for index in live.changes.into_keys() {
            self.space.transitions.retire(index, 1);
        }
        self.lose_backends(id, live.index, live.backends);
        Ok(())
    }

    pub(super) fn lose_backends(
        &mut self,
        listener: ListenerId,
        listener_index: u32,
        backends: BTreeMap<BackendId, LiveBackend>,
    ) {
        for (id, LiveBackend { index, .. }) in backends {
            self.lost_replies.push((reply_endpoint(listener, id), index));
            self.lost.backends.insert(index, listener_index);
        }
    }

    /// Makes these the slots of a listener. Writes nothing if they are already.
    pub(super) fn switch_slots(&mut self, id: ListenerId, slots: Vec<TrackedSlot>) -> anyhow::Result<()> {
        let Self { maps, listeners, space, left, .. } = self;
        let live = listeners.get_mut(&id).with_context(|| format!("listener {id} is there"))?;
        live.generation += 1;
        let is_empty = slots.iter().all(|&slot| slot == TrackedSlot::stable(NOBODY));
        let slots = if is_empty { Vec::new() } else { slots };
        live.count_slots(&slots);
        for opened in live.backends.values().filter(|backend| backend.slots > 0) {
            left.closed.remove(&opened.index);
        }
        let (words, changes) = live.name_changes(&slots, maps, space)?;
        let old = std::mem::replace(&mut live.changes, changes);
        if words.len() == live.table.slots as usize && live.table.is(live.desired.mode) && words == live.words(maps)? {
            return Ok(());
        }
        let first_block = space.blocks.allocate(blocks(words.len() as u32)).context(FULL)?;
        maps.set_table(first_block, &words)?;
        let table = SlotTable::new(first_block, words.len() as u32, live.desired.mode);
        for listener in maps.listeners.get(&live.index, 0).context("read a listener")?.switch_to(table) {
            maps.listeners.set(live.index, listener, 0).context("switch a listener's slot table")?;
        }
        space.blocks.retire(live.table.first_block, blocks(live.table.slots));
        live.table = table;
        for index in old.into_keys().filter(|index| !live.changes.contains_key(index)) {
            space.transitions.retire(index, 1);
        }
        Ok(())
    }
}

impl LiveListener {
    /// Whether a backend stays where it is when the listener gets this mode.
    fn keeps(&self, backend: &BackendId, mode: ForwardingMode) -> bool {
        self.desired.mode == mode && self.backends.contains_key(backend)
    }

    /// Writes which of its backends are lost. One byte of an element changes.
    fn mark_lost(&mut self, maps: &mut Maps, lost: &BTreeSet<BackendId>) -> anyhow::Result<()> {
        for (id, backend) in &mut self.backends {
            let value = backend.value.with_lost(lost.contains(id));
            if value != backend.value {
                maps.backends.set(backend.index, value, 0).context("write whether a backend is lost")?;
                backend.value = value;
            }
        }
        Ok(())
    }

    /// Its slots, as they stand in the map.
    pub(super) fn words(&self, maps: &Maps) -> anyhow::Result<Vec<Slot>> {
        maps.table(&self.table)
    }

    /// Its slots.
    pub(super) fn slots(&self, maps: &Maps) -> anyhow::Result<Vec<TrackedSlot>> {
        self.words(maps)?.into_iter().map(|word| self.slot(word)).collect()
    }

    fn slot(&self, word: Slot) -> anyhow::Result<TrackedSlot> {
        let Some(index) = word.transition() else { return Ok(TrackedSlot::stable(word.backend())) };
        let change = self.changes.get(&index).context("a slot's change is one of its listener")?;
        Ok(TrackedSlot::of(&change.transition))
    }

    /// The backend that new flows of a slot get.
    pub(super) fn owner(&self, maps: &Maps, slot: u32) -> anyhow::Result<Option<BackendId>> {
        let Some(&word) = self.words(maps)?.get(slot as usize) else { return Ok(None) };
        let owner = self.slot(word)?.current;
        Ok(self.backends.iter().find(|(_, backend)| backend.index == owner).map(|(&id, _)| id))
    }

    /// Backends that are bound no more, and that nothing leads to.
    pub(super) fn leaving(&self, has_flows: impl Fn(u32) -> bool) -> Vec<BackendId> {
        let is_needed = |index: u32| {
            let moving = self.changes.values().map(|change| TrackedSlot::of(&change.transition).stage);
            has_flows(index)
                || moving.into_iter().any(|stage| matches!(stage, Stage::Moving { previous, .. } if previous == index))
        };
        let unbound = self.backends.iter().filter(|(id, _)| !self.desired.weights.contains_key(id));
        unbound.filter(|(_, backend)| !is_needed(backend.index)).map(|(&id, _)| id).collect()
    }

    /// The slots that it shall have, from those that it had in this mode.
    fn assign(&self, before: &[TrackedSlot], owners: &[u32]) -> anyhow::Result<Vec<TrackedSlot>> {
        let DesiredListener { mode, drain, .. } = self.desired;
        let index = |id| self.backends.get(id).map(|backend| backend.index);
        let bound: Option<Vec<u32>> = self.desired.weights.keys().map(index).collect();
        let bound = bound.context("a slot's owner is a backend of its listener")?;
        let mut indexes: Vec<u32> = owners.iter().map(|&owner| bound[owner as usize]).collect();
        if indexes.is_empty() {
            indexes = vec![NOBODY; before.len()];
        }
        // `full_nat` remembers every flow itself.
        if mode == ForwardingMode::FullNat || before.is_empty() {
            return Ok(indexes.into_iter().map(TrackedSlot::stable).collect());
        }
        // No slot is one of before, but pinned flows stay.
        if before.len() != indexes.len() {
            return Ok(indexes.into_iter().map(TrackedSlot::settling).collect());
        }
        let until = now()? + ticks(drain) + 1;
        let lost = self.backends.values().filter(|backend| backend.value.is_lost()).map(|backend| backend.index);
        let lost: BTreeSet<u32> = lost.collect();
        let keeps_none = |backend| drain.is_zero() || lost.contains(&backend);
        Ok(before.iter().zip(indexes).map(|(slot, owner)| slot.assign(owner, until, keeps_none)).collect())
    }

    /// Counts the slots of each backend.
    pub(super) fn count_slots(&mut self, slots: &[TrackedSlot]) {
        let owners = || slots.iter().map(|slot| slot.current).filter(|&owner| owner != NOBODY);
        let (first, last) = (owners().min().unwrap_or_default(), owners().max().unwrap_or_default());
        let mut owned = vec![0; (last - first) as usize + 1];
        for owner in owners() {
            owned[(owner - first) as usize] += 1;
        }
        for backend in self.backends.values_mut() {
            let place = backend.index.checked_sub(first);
            backend.slots = place.and_then(|place| owned.get(place as usize)).copied().unwrap_or_default();
        }
    }

    /// The slots as they shall stand in the map, and the changes that they name. Those that are there already keep their
    /// places, others are written where no packet looks yet.
    fn name_changes(
        &self,
        slots: &[TrackedSlot],
        maps: &mut Maps,
        space: &mut Space,
    ) -> anyhow::Result<(Vec<Slot>, BTreeMap<u32, SlotChange>)> {
        let takes_new = |id| self.desired.weights.get(id).is_some_and(|&weight| weight > 0);
        let drained = self.backends.iter().filter(|(id, _)| !takes_new(id)).map(|(_, backend)| backend.index);
        let drained: BTreeSet<u32> = drained.collect();
        let transition = |slot: TrackedSlot| slot.transition(|backend| drained.contains(&backend));
        let mut places: BTreeMap<Transition, u32> = BTreeMap::new();
        for (&index, change) in &self.changes {
            // What is settling is equal whatever it was before.
            let normal = match change.transition.phase() {
                Phase::Settling => transition(TrackedSlot::of(&change.transition)).unwrap_or(change.transition),
                Phase::Moving | Phase::Draining => change.transition,
            };
            places.insert(normal, index);
        }
        let mut changes: BTreeMap<u32, SlotChange> = BTreeMap::new();
        let mut words = Vec::with_capacity(slots.len());
        let mut without_place = 0_u32;
        for &slot in slots {
            let Some(transition) = transition(slot) else {
                words.push(Slot::stable(slot.current));
                continue;
            };
            let place = places.get(&transition).copied().or_else(|| space.transitions.allocate(1));
            let Some(index) = place else {
                without_place += 1;
                words.push(Slot::stable(slot.current));
                continue;
            };
            if places.insert(transition, index).is_none() {
                maps.transitions.set(index, transition, 0).context("write a slot's change")?;
            }
            changes.entry(index).or_insert(SlotChange { transition, slots: 0 }).slots += 1;
            words.push(Slot::moved(index));
        }
        if without_place > 0 {
            warn!(
                "{without_place} slots change their owner at once, since too many others are changing: their connections break"
            );
        }
        Ok((words, changes))
    }
}

fn add_backend(
    maps: &mut Maps,
    space: &mut Space,
    id: BackendId,
    mode: ForwardingMode,
    resolve: &Resolve<'_>,
) -> anyhow::Result<LiveBackend> {
    let index = space.backends.allocate(1).context(FULL)?;
    let mut value = Backend::new(id.address, Port::new(id.port));
    let [_, next_hop] = value.next_hop.switch_to(resolve(mode, id.address));
    value.next_hop = next_hop;
    maps.backends.set(index, value, 0).context("write a backend")?;
    Ok(LiveBackend { index, value, slots: 0 })
}

fn reply_endpoint(listener: ListenerId, backend: BackendId) -> Endpoint {
    Endpoint::of(listener.protocol, SocketAddr::new(backend.address, backend.port))
}
