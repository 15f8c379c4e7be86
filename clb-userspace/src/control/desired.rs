//! From the configuration, and what is known of the backends, to what the data plane shall hold.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use clb_common::ForwardingMode;

use super::plan::DesiredListener;
use crate::{
    config::{Affinity, Backend, Config, Forwarding, Listener, OnUnhealthy},
    dataplane::ListenerId,
    slots::BackendId,
};

/// What is known of a backend that the configuration does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// It shall get no new flows, as a person asked.
    pub is_drained: bool,
    /// It does not answer its checks.
    pub is_unhealthy: bool,
}

/// What the data plane shall hold for this configuration. Fails if it asks for something that clb does not do yet.
pub fn desired(
    config: &Config,
    standing: &dyn Fn(ListenerId, BackendId) -> Standing,
) -> anyhow::Result<BTreeMap<ListenerId, DesiredListener>> {
    let one = |listener| {
        let id = id(listener);
        Ok((id, desired_listener(listener, |backend| standing(id, backend))?))
    };
    config.listeners.iter().map(one).collect()
}

/// The same, with backends that are all as the configuration has them.
pub fn as_configured(config: &Config) -> anyhow::Result<BTreeMap<ListenerId, DesiredListener>> {
    desired(config, &|_, _| Standing::default())
}

/// What a listener of the configuration is found by.
pub fn id(listener: &Listener) -> ListenerId {
    ListenerId { vip: listener.vip, protocol: listener.protocol, port: listener.port }
}

fn desired_listener(listener: &Listener, standing: impl Fn(BackendId) -> Standing) -> anyhow::Result<DesiredListener> {
    let Listener { name, forwarding, affinity, slots, drain, on_unhealthy, .. } = listener;
    if *affinity == Affinity::ClientIp {
        bail!(
            "listener {name}: affinity `client_ip` is not implemented yet\n\
             help: leave it out, or use `connection`"
        );
    }
    let mut weights = weights(listener);
    for (&backend, weight) in &mut weights {
        if standing(backend).is_drained {
            *weight = 0;
        }
    }
    let lost = give_up_unhealthy(&mut weights, |backend| standing(backend).is_unhealthy);
    let lost = if *on_unhealthy == OnUnhealthy::Move { lost } else { BTreeSet::new() };
    Ok(DesiredListener { drain: *drain, lost, ..DesiredListener::new(mode(*forwarding), *slots, weights) })
}

/// Takes the weight of backends that are unhealthy, and says which they are. If no other could have their flows, all keep theirs.
fn give_up_unhealthy(
    weights: &mut BTreeMap<BackendId, u8>,
    is_unhealthy: impl Fn(BackendId) -> bool,
) -> BTreeSet<BackendId> {
    if !weights.iter().any(|(&backend, &weight)| weight > 0 && !is_unhealthy(backend)) {
        return BTreeSet::new();
    }
    let unhealthy: BTreeSet<_> = weights.keys().copied().filter(|&backend| is_unhealthy(backend)).collect();
    for backend in &unhealthy {
        weights.insert(*backend, 0);
    }
    unhealthy
}

/// How packets reach the backends of a listener.
pub fn mode(forwarding: Forwarding) -> ForwardingMode {
    match forwarding {
        Forwarding::Dsr => ForwardingMode::Dsr,
        Forwarding::Ipip => ForwardingMode::Ipip,
        Forwarding::Gue => ForwardingMode::Gue,
        Forwarding::Nat => ForwardingMode::Nat,
        Forwarding::FullNat => ForwardingMode::FullNat,
    }
}

/// The backends of a listener and their weights: what its slot table is made of.
pub fn weights(listener: &Listener) -> BTreeMap<BackendId, u8> {
    let weight = |backend: &Backend| (BackendId { address: backend.address, port: backend.port }, backend.weight);
    listener.backends.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unhealthy_backends_have_no_weight_unless_all_are() {
        let backend = |host| BackendId { address: [10, 0, 1, host].into(), port: 80 };
        let weights = |given: &[(u8, u8)]| given.iter().map(|&(host, weight)| (backend(host), weight)).collect();
        for (name, configured, unhealthy, left, lost) in [
            ("none", &[(1, 10), (2, 20)][..], &[][..], &[(1, 10), (2, 20)][..], &[][..]),
            ("one", &[(1, 10), (2, 20)], &[2], &[(1, 10), (2, 0)], &[2]),
            ("all", &[(1, 10), (2, 20)], &[1, 2], &[(1, 10), (2, 20)], &[]),
            ("all that take new flows", &[(1, 10), (2, 0)], &[1], &[(1, 10), (2, 0)], &[]),
            ("one that takes none", &[(1, 10), (2, 0)], &[2], &[(1, 10), (2, 0)], &[2]),
            ("all, and none takes new flows", &[(1, 0)], &[1], &[(1, 0)], &[]),
        ] {
            let mut given = weights(configured);
            let is_unhealthy = |of| unhealthy.iter().any(|&host| backend(host) == of);
            let gave_up = give_up_unhealthy(&mut given, is_unhealthy);
            assert_eq!((given, gave_up), (weights(left), lost.iter().map(|&host| backend(host)).collect()), "{name}");
        }
    }
}
