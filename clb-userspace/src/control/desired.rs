//! From the configuration to what the data plane shall hold.

use std::collections::BTreeMap;

use anyhow::bail;
use clb_common::ForwardingMode;

use super::plan::DesiredListener;
use crate::{
    config::{Affinity, Backend, Config, Forwarding, Listener},
    dataplane::ListenerId,
    slots::BackendId,
};

/// What the data plane shall hold for this configuration. Fails if it asks for something that clb does not do yet.
pub fn desired(config: &Config) -> anyhow::Result<BTreeMap<ListenerId, DesiredListener>> {
    config.listeners.iter().map(|listener| Ok((id(listener), desired_listener(listener)?))).collect()
}

/// What a listener of the configuration is found by.
pub fn id(listener: &Listener) -> ListenerId {
    ListenerId { vip: listener.vip, protocol: listener.protocol, port: listener.port }
}

fn desired_listener(listener: &Listener) -> anyhow::Result<DesiredListener> {
    let Listener { name, forwarding, affinity, slots, drain, .. } = listener;
    if *affinity == Affinity::ClientIp {
        bail!(
            "listener {name}: affinity `client_ip` is not implemented yet\n\
             help: leave it out, or use `connection`"
        );
    }
    Ok(DesiredListener { drain: *drain, ..DesiredListener::new(mode(*forwarding), *slots, weights(listener)) })
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
