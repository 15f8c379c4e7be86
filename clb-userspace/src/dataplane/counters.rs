//! Reading the counters: read when asked, added up over all CPUs.

use std::{collections::BTreeMap, time::Duration};

use clb_common::{BackendTraffic, DropReason, Event, Phase, Traffic, VerdictCounter};

use super::{Dataplane, ListenerId, LiveBackend, LiveListener, maps, ticks};
use crate::slots::BackendId;

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Packets that are none of clb's business.
    pub passed: u64,
    /// Echo requests that clb answered itself.
    pub answered: u64,
    /// Dropped packets by reason; every reason is there.
    pub dropped: Vec<(DropReason, u64)>,
    /// What else happened; every event is there.
    pub events: Vec<(Event, u64)>,
    /// Flows that `full_nat` remembers, as of the last time that they were counted.
    pub flows: u64,
    /// Flows that are pinned to their backend, as of the last time that they were counted.
    pub pins: u64,
    /// Addresses that backends see in `full_nat`.
    pub source_addresses: usize,
    /// What was sent for backends that are gone.
    pub gone: BackendTraffic,
    /// What each listener got.
    pub listeners: BTreeMap<ListenerId, ListenerCounters>,
}

/// The counters of one listener.
#[derive(Clone, Debug, Default)]
pub struct ListenerCounters {
    /// What clients sent to it, whatever became of that.
    pub arrived: Traffic,
    /// Also those that are bound no more, while flows may lead to them.
    pub backends: BTreeMap<BackendId, BackendCounters>,
    /// Slots of the whole table.
    pub slots: u32,
    /// Slots with another owner, whose old flows have time to show themselves.
    pub moving: u32,
    /// Slots with another owner, whose old flows are pinned.
    pub settling: u32,
}

/// The counters of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackendCounters {
    /// What was sent to it, and its replies.
    pub traffic: BackendTraffic,
    /// Its slots in the table in force.
    pub slots: u32,
    /// Flows that are pinned to it, when they were last looked at.
    pub pins: u64,
    /// The same with those that `full_nat` remembers.
    pub flows: u64,
    /// How long flows of it that were not seen yet have to show themselves, if slots were taken from it.
    pub drain: Option<Duration>,
    /// Whether no flow is left, and none can come.
    pub is_empty: bool,
}

impl Counters {
    /// Packets sent to backends, and their replies sent to clients.
    pub fn sent(&self) -> u64 {
        let backends = self.listeners.values().flat_map(|listener| listener.backends.values());
        let traffic = backends.map(|backend| &backend.traffic).chain([&self.gone]);
        traffic.map(|traffic| traffic.forwarded.packets + traffic.replies.packets).sum()
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().map(|(_, packets)| packets).sum()
    }
}

/// Reads all counters.
pub(super) fn read(of: &Dataplane) -> anyhow::Result<Counters> {
    let Dataplane { maps: of, flows, pins, left, listeners, space, .. } = of;
    let now = ticks::now()?;
    let dropped = |&reason| Ok((reason, maps::sum(&of.verdicts, VerdictCounter::Dropped(reason).index())?));
    let event = |&event| Ok((event, maps::sum(&of.events, event as u32)?));
    let mut counters = Counters {
        passed: maps::sum(&of.verdicts, VerdictCounter::Passed.index())?,
        answered: maps::sum(&of.verdicts, VerdictCounter::Answered.index())?,
        events: Event::ALL.iter().map(event).collect::<anyhow::Result<_>>()?,
        dropped: DropReason::ALL.iter().map(dropped).collect::<anyhow::Result<_>>()?,
        flows: flows.remembered(),
        pins: pins.remembered(),
        source_addresses: of.pool.len(),
        gone: of.backend_traffic(space.gone)?,
        listeners: BTreeMap::new(),
    };
    for (&id, live) in listeners {
        let mut listener = ListenerCounters {
            arrived: of.listener_traffic(live.index)?,
            backends: BTreeMap::new(),
            slots: live.table.slots,
            moving: live.changing(|phase| phase != Phase::Settling),
            settling: live.changing(|phase| phase == Phase::Settling),
        };
        let moving = live.moving_until();
        for (&backend, &LiveBackend { index, slots, .. }) in &live.backends {
            let drain = moving.get(&index).map(|&end| ticks::until(end, now));
            let flows = left.flows(index);
            let traffic = of.backend_traffic(index)?;
            listener.arrived += traffic.forwarded;
            let counters = BackendCounters {
                traffic,
                slots,
                pins: left.pins.get(&index).copied().unwrap_or_default(),
                flows,
                drain,
                is_empty: flows == 0 && slots == 0 && drain.is_none() && left.closed.contains(&index),
            };
            listener.backends.insert(backend, counters);
        }
        counters.listeners.insert(id, listener);
    }
    Ok(counters)
}

impl LiveListener {
    fn changing(&self, is_counted: impl Fn(Phase) -> bool) -> u32 {
        let counted = self.changes.values().filter(|change| is_counted(change.transition.phase()));
        counted.map(|change| change.slots).sum()
    }
}
