//! The end of flows in `full_nat`. The program makes and marks them; the agent walks over them now and then and ends those
//! that are over.
//!
//! The walk takes three system calls a flow (262,144 flows: about a second), so it has a thread of its own. A flow's end may
//! miss a packet that comes in that moment: its client's next packet then makes a new flow. What must stay true: the
//! client's side goes first, so that no client's packet is sent to a backend whose answers find no way back.

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
    maps::{HashMap, MapData, MapError},
};
use clb_common::{Flow, FlowKey, Protocol, Return, ReturnKey, Seen};
use tokio::task::spawn_blocking;

use super::{
    maps::{remove, take},
    ticks::ticks,
};

/// The flows of a loaded object.
#[derive(Clone)]
pub struct FlowTable {
    tables: Arc<Mutex<Tables>>,
    remembered: Arc<AtomicU64>,
}

/// Both directions of the flows.
struct Tables {
    flows: HashMap<MapData, FlowKey, Flow>,
    returns: HashMap<MapData, ReturnKey, Return>,
}

/// What the end of a listener's flows hangs on.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Only TCP says when it ends.
    pub protocol: Protocol,
    /// How long a flow stays without packets.
    pub idle_timeout: Duration,
}

/// Places in the maps that are to be used again.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    pub listeners: BTreeSet<u32>,
    /// With their listeners.
    pub backends: BTreeMap<u32, u32>,
}

impl FlowTable {
    /// Takes the flows out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let tables = Tables { flows: take(ebpf, "FLOWS")?, returns: take(ebpf, "RETURNS")? };
        Ok(Self { tables: Arc::new(Mutex::new(tables)), remembered: Arc::default() })
    }

    /// Ends the flows that are over; of listeners and of lost backends by their indexes. Returns how many are left of each backend.
    pub fn sweep(
        &self,
        lifetimes: &BTreeMap<u32, Lifetime>,
        lost: &BTreeSet<u32>,
        now: u32,
    ) -> anyhow::Result<BTreeMap<u32, u64>> {
        self.end(|back, client| {
            let lifetime = lifetimes.get(&back.flow.listener);
            lost.contains(&back.backend) || lifetime.is_none_or(|lifetime| has_ended(*lifetime, client, back.seen, now))
        })
    }

    /// Ends the flows of what is gone.
    pub async fn clear(&self, gone: Gone) -> anyhow::Result<()> {
        let table = self.clone();
        let cleared = spawn_blocking(move || {
            table.end(|back, _| {
                gone.listeners.contains(&back.flow.listener) || gone.backends.contains_key(&back.backend)
            })
        });
        cleared.await.context("clear flows")?.map(drop)
    }

    /// Which listeners have flows to which backends.
    pub fn references(&self) -> anyhow::Result<BTreeSet<(u32, u32)>> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let reference = |entry: Result<(ReturnKey, Return), MapError>| {
            let (_, back) = entry.context("walk over the flows")?;
            Ok((back.flow.listener, back.backend))
        };
        tables.returns.iter().map(reference).collect()
    }

    /// How many flows there were after the last walk.
    pub fn remembered(&self) -> u64 {
        self.remembered.load(Ordering::Relaxed)
    }

    /// `is_over` gets a way back, and what was seen of its client if that has this way back.
    fn end(&self, is_over: impl Fn(&Return, Option<Seen>) -> bool) -> anyhow::Result<BTreeMap<u32, u64>> {
        let left = self.tables.lock().unwrap_or_else(PoisonError::into_inner).end(is_over)?;
        self.remembered.store(left.values().sum(), Ordering::Relaxed);
        Ok(left)
    }
}

impl Tables {
    fn end(&mut self, is_over: impl Fn(&Return, Option<Seen>) -> bool) -> anyhow::Result<BTreeMap<u32, u64>> {
        // Removing while walking would begin the walk again.
        let mut over = Vec::new();
        let mut left = BTreeMap::new();
        for entry in &self.returns {
            let (key, back) = entry.context("walk over the flows")?;
            let flow = self.flows.get(&back.flow, 0).ok();
            let flow = flow.filter(|flow| (flow.source, flow.port) == (key.source.address, key.source.port));
            if is_over(&back, flow.map(|flow| flow.seen)) {
                over.push((key, flow.map(|_| back.flow)));
            } else {
                *left.entry(back.backend).or_default() += 1;
            }
        }
        for (key, flow) in over {
            if let Some(flow) = flow {
                remove(&mut self.flows, &flow)?;
            }
            remove(&mut self.returns, &key)?;
        }
        Ok(left)
    }
}

/// Whether a flow is over. A way back that no client has stays as long as a flow of which only a SYN was seen: the program
/// may be about to make the other side.
fn has_ended(Lifetime { protocol, idle_timeout }: Lifetime, client: Option<Seen>, backend: Seen, now: u32) -> bool {
    let Seen { tick, marks } = client.unwrap_or_default();
    let idle = now.saturating_sub(tick.max(backend.tick));
    let either = marks | backend.marks;
    let limit = match protocol {
        _ if client.is_none() => AFTER_SYN.min(idle_timeout),
        Protocol::Tcp if either & Seen::RESET != 0 => AFTER_RESET,
        Protocol::Tcp if marks & backend.marks & Seen::FINISHED != 0 => AFTER_BOTH_FINISHED,
        Protocol::Tcp if either & Seen::ESTABLISHED == 0 => AFTER_SYN.min(idle_timeout),
        Protocol::Tcp | Protocol::Udp => idle_timeout,
    };
    idle > ticks(limit)
}

/// The last acknowledgement, and segments that were sent again.
const AFTER_BOTH_FINISHED: Duration = Duration::from_secs(10);
const AFTER_RESET: Duration = Duration::from_secs(2);
const AFTER_SYN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_ends_when_its_time_is_over_and_not_before() {
        const ESTABLISHED: u32 = Seen::ESTABLISHED;
        const FINISHED: u32 = Seen::ESTABLISHED | Seen::FINISHED;
        let tcp = |idle| Lifetime { protocol: Protocol::Tcp, idle_timeout: Duration::from_secs(idle) };
        let udp = |idle| Lifetime { protocol: Protocol::Udp, idle_timeout: Duration::from_secs(idle) };
        let (long, short) = (tcp(900), tcp(15));
        for (name, lifetime, client, backend, limit) in [
            ("established", long, Some(ESTABLISHED), ESTABLISHED, 900),
            ("established, with another timeout", short, Some(ESTABLISHED), ESTABLISHED, 15),
            ("only a SYN", long, Some(0), 0, 30),
            ("only a SYN, with a short timeout", short, Some(0), 0, 15),
            ("the client has closed", long, Some(FINISHED), ESTABLISHED, 900),
            ("the backend has closed", long, Some(ESTABLISHED), FINISHED, 900),
            ("both have closed", long, Some(FINISHED), FINISHED, 10),
            ("the client has reset", long, Some(ESTABLISHED | Seen::RESET), ESTABLISHED, 2),
            ("the backend refuses", long, Some(0), Seen::RESET, 2),
            ("reset after both have closed", long, Some(FINISHED | Seen::RESET), FINISHED, 2),
            ("UDP", udp(300), Some(0), 0, 300),
            ("a way back without its client", long, None, 0, 30),
        ] {
            let start = 1_000_000;
            for (which, client_tick, backend_tick) in [("client", start, 0), ("backend", 0, start)] {
                if client.is_none() && client_tick > 0 {
                    continue;
                }
                let client = client.map(|marks| Seen { tick: client_tick, marks });
                let backend = Seen { tick: backend_tick, marks: backend };
                let ended = |idle| has_ended(lifetime, client, backend, start + idle);
                let last = (0..2_000).rev().find(|&idle| !ended(idle)).expect("it does not end at once");
                let seconds = f64::from(last) * 1.073_741_824;
                let limit = f64::from(limit);
                assert!((limit..limit + 1.1).contains(&seconds), "{name}, by the {which}: {seconds} s");
            }
        }
        assert!(
            !has_ended(long, Some(Seen { tick: 11, marks: 0 }), Seen::default(), 10),
            "a packet after the walk began"
        );
    }
}
