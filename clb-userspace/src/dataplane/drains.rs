//! The drains that a person asked for, in a map that no packet looks at: it keeps them for the next agent.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use clb_common::{Endpoint, Port};

use super::{
    Dataplane,
    maps::{remove, take},
};
use crate::drain::Drain;

/// The drains of a loaded object.
pub struct DrainTable(HashMap<MapData, Endpoint, u32>);

impl DrainTable {
    pub fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        take(ebpf, "DRAINS").map(Self)
    }
}

impl Dataplane {
    /// The drains that were asked for, also of an agent before this one.
    pub fn drains(&self) -> anyhow::Result<BTreeSet<Drain>> {
        let keys = self.maps.drains.0.keys();
        keys.map(|key| Ok(drain(key.context("read the drains")?))).collect()
    }

    /// Remembers a drain.
    pub fn add_drain(&mut self, drain: Drain) -> anyhow::Result<()> {
        self.maps.drains.0.insert(key(drain), RESERVED, 0).with_context(|| format!("note the drain of {drain}"))
    }

    /// Forgets a drain.
    pub fn remove_drain(&mut self, drain: Drain) -> anyhow::Result<()> {
        remove(&mut self.maps.drains.0, &key(drain))
    }
}

fn key(Drain { address, port }: Drain) -> Endpoint {
    Endpoint::of_address(address).with(address.into(), Port::new(port.unwrap_or(EVERY_PORT)))
}

fn drain(key: Endpoint) -> Drain {
    let port = key.port.number();
    Drain { address: IpAddr::from(key.address), port: (port != EVERY_PORT).then_some(port) }
}

/// No backend has it.
const EVERY_PORT: u16 = 0;
/// The map's values say nothing yet.
const RESERVED: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_which_drain_it_is_of() {
        for text in ["10.0.1.11", "10.0.1.11:80", "fd00::1", "[fd00::1]:65535"] {
            let asked: Drain = text.parse().unwrap();
            assert_eq!(drain(key(asked)), asked, "{text}");
        }
    }
}
