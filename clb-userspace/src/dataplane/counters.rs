//! Reading the counters: read when asked, added up over all CPUs.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aya::{
    Pod,
    maps::{MapData, PerCpuArray},
};
use clb_common::{BackendTraffic, DropReason, Traffic, VerdictCounter};

use super::{ListenerId, LiveBackend, LiveListener, maps::Maps};
use crate::slots::BackendId;

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Packets that are none of clb's business.
    pub passed: u64,
    /// Dropped packets by reason; every reason is there.
    pub dropped: Vec<(DropReason, u64)>,
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
        backends.map(|(traffic, _)| traffic.forwarded.packets + traffic.replies.packets).sum()
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().map(|(_, packets)| packets).sum()
    }
}

/// Reads all counters of these listeners.
pub(super) fn read(maps: &Maps, listeners: &BTreeMap<ListenerId, LiveListener>) -> anyhow::Result<Counters> {
    let dropped = |&reason| Ok((reason, sum(&maps.verdicts, VerdictCounter::Dropped(reason).index())?));
    let mut counters = Counters {
        passed: sum(&maps.verdicts, VerdictCounter::Passed.index())?,
        dropped: DropReason::ALL.iter().map(dropped).collect::<anyhow::Result<_>>()?,
        listeners: BTreeMap::new(),
    };
    for (&id, live) in listeners {
        let mut listener = ListenerCounters {
            arrived: sum(&maps.listener_traffic, live.index)?,
            backends: BTreeMap::new(),
            slots: live.table.slots,
        };
        for (&backend, LiveBackend { index, slots, .. }) in &live.backends {
            listener.backends.insert(backend, (sum(&maps.backend_traffic, *index)?, *slots));
        }
        counters.listeners.insert(id, listener);
    }
    Ok(counters)
}

fn sum<T: Pod + Default + std::ops::AddAssign>(map: &PerCpuArray<MapData, T>, index: u32) -> anyhow::Result<T> {
    let mut total = T::default();
    for value in map.get(&index, 0).context("read a counter")?.iter() {
        total += *value;
    }
    Ok(total)
}
