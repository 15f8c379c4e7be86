//! What an agent left behind, taken over from the maps alone: it may have been killed between any two writes.
//!
//! What must stay true: whatever a packet can be led to by slots, pins, flows or replies is known afterwards, and keeps its
//! place. Packets flow meanwhile, through the program that was left.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::maps::{Array, Map};
use clb_common::{EndpointEntry, ForwardingMode, Listener, NOBODY, Slot, SlotTable};
use tracing::warn;

use super::{Dataplane, GRACE, Home, ListenerId, LiveBackend, LiveListener, Settings, SlotChange, space::blocks};
use crate::{control::DesiredListener, slots::BackendId};

impl Dataplane {
    /// Loads the program with the maps that are there, and learns what they hold. Packets see none of it.
    pub(super) fn adopt(
        settings: Settings,
        desired: &BTreeMap<ListenerId, DesiredListener>,
        home: Home,
    ) -> anyhow::Result<Self> {
        let modes = desired.values().fold(modes_in(&home)?, |modes, listener| modes | listener.mode.bit());
        let capacity = home.capacity(modes)?;
        let max_flows = home.max_flows()?.unwrap_or(settings.max_flows);
        if max_flows != settings.max_flows {
            warn!(
                "full_nat goes on with room for {max_flows} flows, not for {}: `clb detach` and a start would change that",
                settings.max_flows
            );
        }
        let mut dataplane = Self::with(Settings { max_flows, ..settings }, capacity, Ok(home))?;
        dataplane.learn().context("take over what the agent before left")?;
        Ok(dataplane)
    }

    /// Has this program run on the interfaces, by their indexes, where that of the agent before does, and gives back what that
    /// agent left half done.
    pub async fn take_over(&mut self, interfaces: &BTreeMap<u32, String>) -> anyhow::Result<()> {
        self.program.take_over(interfaces)?;
        tokio::time::sleep(GRACE).await;
        self.program.forget_other_stages()?;
        self.remove_lost_replies()?;
        self.give_back().await
    }

    /// Backends whose flows went to others since they failed their checks.
    pub fn lost(&self) -> impl Iterator<Item = (ListenerId, BackendId)> {
        self.listeners.iter().flat_map(|(&listener, live)| {
            let lost = live.backends.iter().filter(|(_, backend)| backend.value.is_lost());
            lost.map(move |(&backend, _)| (listener, backend))
        })
    }

    /// What packets depend on stays when this process ends.
    pub fn keep(&mut self) {
        if let Ok(home) = &mut self.program.home {
            home.keep();
        }
    }

    fn learn(&mut self) -> anyhow::Result<()> {
        let mut references = self.pins.references()?;
        references.extend(self.flows.references()?);
        self.maps.listener_indexes.adopt().context("read the listeners")?;
        self.maps.reply_indexes.adopt().context("read the ways back")?;
        let found: Vec<_> = self.maps.listener_indexes.iter().collect();
        for (endpoint, index) in found {
            if let Some((protocol, vip)) = endpoint.socket() {
                let id = ListenerId { vip: vip.ip(), protocol, port: vip.port() };
                self.listeners.insert(id, self.learn_listener(index)?);
            }
        }
        references.extend(self.learn_replies()?);
        let indexes: BTreeSet<u32> = self.listeners.values().map(|live| live.index).collect();
        self.lost.listeners =
            references.iter().map(|&(listener, _)| listener).filter(|of| !indexes.contains(of)).collect();
        self.learn_backends(&references)?;
        self.claim()?;
        self.keep_counts()?;
        self.routes = self.maps.routes()?;
        self.maps.pool.adopt()?;
        self.last_change = Some(Instant::now());
        Ok(())
    }

    /// A listener with its slots and their changes. What it was desired to be is not known, so that any plan changes it.
    fn learn_listener(&self, index: u32) -> anyhow::Result<LiveListener> {
        let table = *self.maps.listeners.get(&index, 0).context("read a listener")?.current();
        let mode = table.mode().context("a listener has a mode")?;
        let mut live = LiveListener {
            desired: DesiredListener {
                drain: Duration::ZERO,
                ..DesiredListener::new(mode, table.slots, BTreeMap::new())
            },
            index,
            table,
            generation: 0,
            changes: BTreeMap::new(),
            backends: BTreeMap::new(),
        };
        for place in live.words(&self.maps)?.into_iter().filter_map(Slot::transition) {
            match live.changes.entry(place) {
                Entry::Occupied(change) => change.into_mut().slots += 1,
                Entry::Vacant(vacant) => {
                    let transition = self.maps.transitions.get(&place, 0).context("read a slot's change")?;
                    vacant.insert(SlotChange { transition, slots: 1 });
                }
            }
        }
        Ok(live)
    }

    /// Which listeners have ways back from which backends. Those of no listener are lost.
    fn learn_replies(&mut self) -> anyhow::Result<BTreeSet<(u32, u32)>> {
        let mut references = BTreeSet::new();
        for (endpoint, backend) in self.maps.reply_indexes.iter() {
            let reply = self.maps.replies.get(&backend, 0).context("read a way back")?;
            let listener = endpoint.socket().and_then(|(protocol, _)| {
                let id = ListenerId { vip: reply.vip.into(), protocol, port: reply.port.number() };
                self.listeners.get(&id).filter(|live| live.desired.mode == ForwardingMode::Nat)
            });
            match listener {
                Some(live) => drop(references.insert((live.index, backend))),
                None => self.lost_replies.push((endpoint, backend)),
            }
        }
        Ok(references)
    }

    /// The backends that slots lead to, then those that `references` do. Of two with the same address the one that slots lead
    /// to is right: the other was being given up.
    fn learn_backends(&mut self, references: &BTreeSet<(u32, u32)>) -> anyhow::Result<()> {
        let Self { maps, listeners, lost, space, .. } = self;
        for live in listeners.values_mut() {
            let slots = live.slots(maps)?;
            let moved =
                live.changes.values().flat_map(|change| [change.transition.current, change.transition.previous]);
            let led_to: BTreeSet<u32> = slots.iter().map(|slot| slot.current).chain(moved).collect();
            let others = references.range((live.index, 0)..=(live.index, u32::MAX)).map(|&(_, backend)| backend);
            let others = others.filter(|index| !led_to.contains(index));
            for index in led_to.iter().copied().chain(others).filter(|&index| index != NOBODY && index < space.gone) {
                let value = maps.backends.get(&index, 0).context("read a backend")?;
                let id = BackendId { address: value.address.into(), port: value.port.number() };
                match live.backends.entry(id) {
                    Entry::Vacant(vacant) => drop(vacant.insert(LiveBackend { index, value, slots: 0 })),
                    Entry::Occupied(_) => drop(lost.backends.insert(index, live.index)),
                }
            }
            live.count_slots(&slots);
        }
        Ok(())
    }

    /// Nothing that is in use is given to others.
    fn claim(&mut self) -> anyhow::Result<()> {
        let Self { listeners, space, lost, .. } = self;
        let mut backends: BTreeSet<u32> = lost.backends.keys().copied().collect();
        for live in listeners.values() {
            let SlotTable { first_block, slots, .. } = live.table;
            space.listeners.claim(live.index, 1).context(TORN)?;
            space.blocks.claim(first_block, blocks(slots)).context(TORN)?;
            for &place in live.changes.keys() {
                space.transitions.claim(place, 1).context(TORN)?;
            }
            backends.extend(live.backends.values().map(|backend| backend.index));
        }
        for &index in &backends {
            space.backends.claim(index, 1).context(TORN)?;
        }
        // A place that no map has is none to give back.
        lost.listeners.retain(|&index| space.listeners.claim(index, 1).is_some());
        Ok(())
    }

    /// What was counted for backends that are gone stays in the sum.
    fn keep_counts(&mut self) -> anyhow::Result<()> {
        let known = self.listeners.values().flat_map(|live| live.backends.values()).map(|backend| backend.index);
        let known: BTreeSet<u32> = known.chain(self.lost.backends.keys().copied()).collect();
        for index in (0..self.space.gone).filter(|index| !known.contains(index)) {
            self.maps.move_backend_traffic(index, None, self.space.gone)?;
        }
        Ok(())
    }
}

/// The modes that listeners have, each a bit: the program that takes over has to know them before it is loaded.
fn modes_in(home: &Home) -> anyhow::Result<u32> {
    let entries = Array::<_, EndpointEntry>::try_from(Map::Array(home.open_map("LISTENER_INDEXES")?))?;
    let listeners = Array::<_, Listener>::try_from(Map::Array(home.open_map("LISTENERS")?))?;
    let mut modes = 0;
    for entry in entries.iter() {
        let entry = entry.context("read the listeners")?;
        if !entry.is_taken() {
            continue;
        }
        let mode = listeners.get(&entry.index, 0).context("read a listener")?.current().mode();
        modes |= mode.context("a listener has a mode")?.bit();
    }
    Ok(modes)
}

const TORN: &str = "the maps that an agent left contradict themselves\n\
                    help: `clb detach` removes them, and ends forwarding until clb is started again";
