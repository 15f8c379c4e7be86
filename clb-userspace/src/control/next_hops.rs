//! The next hops of the backends as they are in force: one look at the network that the data plane, the log and
//! `clb status` share, so that none of them says what another does not know yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clb_common::{ForwardingMode, NextHop};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{Unresolved, desired::mode};
use crate::{
    config::{self, Config, Forwarding},
    dataplane::Dataplane,
    network::{Hop, Network, Reach, Unresolved as Reason},
};

/// For each address how packets leave, or why they cannot.
#[derive(Debug, Default)]
pub struct NextHops(BTreeMap<(IpAddr, Reach), Result<Hop, Reason>>);

impl NextHops {
    /// Those of these addresses, as the network says now.
    pub fn of(addresses: &BTreeSet<(IpAddr, Reach)>, network: &Network) -> Self {
        let look = |&(address, reach): &_| ((address, reach), network.next_hop(address, reach));
        Self(addresses.iter().map(look).collect())
    }

    /// Gives the neighbours on the way to these time to answer, and fails if some do not and must.
    pub async fn wait_for(
        network: &mut Network,
        addresses: &BTreeSet<(IpAddr, Reach)>,
        unresolved: Unresolved,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = false;
        loop {
            let next_hops = Self::of(addresses, network);
            let missing = next_hops.by_address();
            let missing: Vec<_> =
                missing.into_iter().filter_map(|(address, hop)| Some((address, hop.err()?))).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let may_answer = missing.iter().all(|(_, reason)| matches!(reason, Reason::NoMac { .. }));
            if may_answer && !said {
                info!("waiting up to {PATIENCE:?} for {} neighbours to answer", missing.len());
                said = true;
            }
            let changed = if may_answer { timeout_at(deadline, network.changed()).await.ok() } else { None };
            match (changed, unresolved) {
                (Some(changed), _) => changed.context(super::FOLLOW)?,
                (None, Unresolved::Allow) => return Ok(()),
                (None, Unresolved::Refuse) => return Err(unreachable_backends(&missing)),
            }
        }
    }

    /// How packets of a listener with this mode get to a backend.
    pub fn resolve(&self, mode: ForwardingMode, address: IpAddr) -> NextHop {
        let hop = self.0.get(&(address, reach_in(mode))).and_then(|hop| hop.as_ref().ok());
        hop.map_or(NextHop::UNRESOLVED, |hop| hop.next_hop)
    }

    /// For a listener with this mode; nothing if the address is none of the configuration.
    pub fn get(&self, forwarding: Forwarding, address: IpAddr) -> Option<&Result<Hop, Reason>> {
        self.0.get(&(address, reach_of(forwarding)))
    }

    /// Logs what became reachable since these were in force, and what no longer is.
    pub fn log_changes_since(&self, before: &Self) {
        let before = before.by_address();
        let was_lost = |address| before.get(address).is_some_and(Result::is_err);
        for (address, hop) in &self.by_address() {
            match (hop, was_lost(address)) {
                (Ok(hop), true) => info!("backend {address} is reachable again: {}", describe(hop)),
                (Err(reason), false) => warn!("backend {address} is not reachable, its packets are dropped: {reason}"),
                _ => {}
            }
        }
    }

    /// One for each address: a listener that cannot reach it matters more than one that can.
    fn by_address(&self) -> BTreeMap<IpAddr, Result<&Hop, &Reason>> {
        let mut by_address = BTreeMap::new();
        for (&(address, _), hop) in &self.0 {
            let known = by_address.entry(address).or_insert(hop.as_ref());
            *known = known.and(hop.as_ref());
        }
        by_address
    }
}

/// The addresses to reach, and how.
pub fn addresses(config: &Config) -> BTreeSet<(IpAddr, Reach)> {
    let of = |listener: &config::Listener| reach_of(listener.forwarding);
    config
        .listeners
        .iter()
        .flat_map(|listener| listener.backends.iter().map(move |backend| (backend.address, of(listener))))
        .collect()
}

/// The same for backends that are bound no more, while flows lead to them.
pub fn leaving(dataplane: &Dataplane) -> BTreeSet<(IpAddr, Reach)> {
    dataplane.leaving().map(|(mode, address)| (address, reach_in(mode))).collect()
}

/// A next hop, for a person.
pub fn describe(Hop { via, interface, next_hop }: &Hop) -> String {
    let [a, b, c, d, e, f] = next_hop.destination();
    format!("{via} at {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} on {interface}, MTU {}", next_hop.mtu)
}

/// A packet whose addresses stay as they are reaches its backend only on the link.
fn reach_in(mode: ForwardingMode) -> Reach {
    match mode {
        ForwardingMode::Dsr => Reach::OnLink,
        ForwardingMode::Ipip | ForwardingMode::Gue | ForwardingMode::Nat | ForwardingMode::FullNat => Reach::Routed,
    }
}

fn reach_of(forwarding: Forwarding) -> Reach {
    reach_in(mode(forwarding))
}

fn unreachable_backends(missing: &[(IpAddr, &Reason)]) -> anyhow::Error {
    let mut message = "the next hop of a backend is not known".to_owned();
    for (address, reason) in missing {
        message.push_str(&format!("\n  {address}: {reason}"));
    }
    if let Some((_, reason)) = missing.first() {
        message.push_str(&format!("\nhelp: {}", reason.help()));
    }
    message.push_str("\nhelp: to start all the same, and drop and count its packets until it is: `--allow-unresolved`");
    anyhow!(message)
}

/// The kernel asks a silent neighbour three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(4);
