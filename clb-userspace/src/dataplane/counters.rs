//! Reading the counters: read when asked, added up over all CPUs.

use std::collections::BTreeMap;

use clb_common::{BackendTraffic, DropReason, Event, Traffic, VerdictCounter};

use super::{
    ListenerId, LiveBackend, LiveListener,
    flows::FlowTable,
    maps::{self, Maps},
};
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
    /// For each backend its traffic and its number of slots.
    pub backends: BTreeMap<BackendId, (BackendTraffic, u32)>,
    /// Slots of the whole table.
    pub slots: u32,
}

impl Counters {
    /// Packets sent to backends, and their replies sent to clients.
    pub fn sent(&self) -> u64 {
        let backends = self.listeners.values().flat_map(|listener| listener.backends.values());
        let traffic = backends.map(|(traffic, _)| traffic).chain([&self.gone]);
        traffic.map(|traffic| traffic.forwarded.packets + traffic.replies.packets).sum()
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().map(|(_, packets)| packets).sum()
    }
}

/// Reads all counters of these listeners.
pub(super) fn read(
    of: &Maps,
    flows: &FlowTable,
    listeners: &BTreeMap<ListenerId, LiveListener>,
    gone: BackendTraffic,
) -> anyhow::Result<Counters> {
    let dropped = |&reason| Ok((reason, maps::sum(&of.verdicts, VerdictCounter::Dropped(reason).index())?));
    let event = |&event| Ok((event, maps::sum(&of.events, event as u32)?));
    let mut counters = Counters {
        passed: maps::sum(&of.verdicts, VerdictCounter::Passed.index())?,
        answered: maps::sum(&of.verdicts, VerdictCounter::Answered.index())?,
        events: Event::ALL.iter().map(event).collect::<anyhow::Result<_>>()?,
        dropped: DropReason::ALL.iter().map(dropped).collect::<anyhow::Result<_>>()?,
        flows: flows.remembered(),
        source_addresses: of.pool.len(),
        gone,
        listeners: BTreeMap::new(),
    };
    for (&id, live) in listeners {
        let mut listener = ListenerCounters {
            arrived: maps::sum(&of.listener_traffic, live.index)?,
            backends: BTreeMap::new(),
            slots: live.table.slots,
        };
        for (&backend, LiveBackend { index, slots, .. }) in &live.backends {
            listener.backends.insert(backend, (of.backend_traffic(*index)?, *slots));
        }
        counters.listeners.insert(id, listener);
    }
    Ok(counters)
}
