//! The program's maps by name and type.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use clb_common::{
    Address, Backend, BackendTraffic, Listener, NextHop, PinBudget, Reply, SLOTS_PER_BLOCK, Slot, SlotBlock, SlotTable,
    Traffic, Transition,
};

use super::{drains::DrainTable, endpoints::EndpointTable, pool::SourcePool, space::blocks};
use crate::network::Prefix;

/// All maps that the agent reads or writes. `clb-ebpf/src/maps.rs` says what each is for.
pub struct Maps {
    pub listener_indexes: EndpointTable,
    pub listeners: Array<MapData, Listener>,
    slots: Array<MapData, SlotBlock>,
    pub transitions: Array<MapData, Transition>,
    pub backends: Array<MapData, Backend>,
    pub reply_indexes: EndpointTable,
    pub replies: Array<MapData, Reply>,
    routes: LpmTrie<MapData, Address, NextHop>,
    listener_traffic: PerCpuArray<MapData, Traffic>,
    former_traffic: Array<MapData, Traffic>,
    backend_traffic: PerCpuArray<MapData, BackendTraffic>,
    pub verdicts: PerCpuArray<MapData, u64>,
    pub events: PerCpuArray<MapData, u64>,
    pin_budget: PerCpuArray<MapData, PinBudget>,
    pub pool: SourcePool,
    pub drains: DrainTable,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            listener_indexes: EndpointTable::take(ebpf, "LISTENER_INDEXES")?,
            listeners: take(ebpf, "LISTENERS")?,
            slots: take(ebpf, "SLOTS")?,
            transitions: take(ebpf, "TRANSITIONS")?,
            backends: take(ebpf, "BACKENDS")?,
            reply_indexes: EndpointTable::take(ebpf, "REPLY_INDEXES")?,
            replies: take(ebpf, "REPLIES")?,
            routes: take(ebpf, "ROUTES")?,
            listener_traffic: take(ebpf, "LISTENER_TRAFFIC")?,
            former_traffic: take(ebpf, "FORMER_TRAFFIC")?,
            backend_traffic: take(ebpf, "BACKEND_TRAFFIC")?,
            verdicts: take(ebpf, "VERDICTS")?,
            events: take(ebpf, "EVENTS")?,
            pin_budget: take(ebpf, "PIN_BUDGET")?,
            pool: SourcePool::take(ebpf)?,
            drains: DrainTable::take(ebpf)?,
        })
    }

    /// The slots of a table, as they stand in the map.
    pub fn table(&self, table: &SlotTable) -> anyhow::Result<Vec<Slot>> {
        let blocks = table.first_block..table.first_block + blocks(table.slots);
        let mut slots = Vec::with_capacity(blocks.len() * SLOTS_PER_BLOCK as usize);
        for block in blocks {
            slots.extend(self.slots.get(&block, 0).context("read a slot table")?.0);
        }
        slots.truncate(table.slots as usize);
        Ok(slots)
    }

    /// Writes a table to blocks that no packet looks at.
    pub fn set_table(&mut self, first_block: u32, slots: &[Slot]) -> anyhow::Result<()> {
        for (block, slots) in (first_block..).zip(slots.chunks(SLOTS_PER_BLOCK as usize)) {
            let mut filled = [Slot::stable(0); SLOTS_PER_BLOCK as usize];
            filled[..slots.len()].copy_from_slice(slots);
            self.slots.set(block, SlotBlock(filled), 0).context("write a slot table")?;
        }
        Ok(())
    }

    /// Sets the way to the clients of a prefix.
    pub fn set_route(&mut self, prefix: Prefix, next_hop: NextHop) -> anyhow::Result<()> {
        self.routes.insert(&route_key(prefix), next_hop, 0).context("write a route")
    }

    /// Removes the way to the clients of a prefix.
    pub fn remove_route(&mut self, prefix: Prefix) -> anyhow::Result<()> {
        self.routes.remove(&route_key(prefix)).context("remove a route")
    }

    /// A backend's counters, of all CPUs.
    pub fn backend_traffic(&self, index: u32) -> anyhow::Result<BackendTraffic> {
        sum(&self.backend_traffic, index)
    }

    /// Sets a listener's counters to zero, before its index is used again.
    pub fn clear_listener_traffic(&mut self, index: u32) -> anyhow::Result<()> {
        self.former_traffic.set(index, Traffic::default(), 0).context("clear a counter")?;
        clear(&mut self.listener_traffic, index)
    }

    /// What a listener got that was not sent to a backend which is there.
    pub fn listener_traffic(&self, index: u32) -> anyhow::Result<Traffic> {
        let mut traffic = self.former_traffic.get(&index, 0).context("read a counter")?;
        traffic += sum(&self.listener_traffic, index)?;
        Ok(traffic)
    }

    /// Adds a backend's counters to those at another index and to its listener's, and sets its own to zero before its index is used
    /// again.
    pub fn move_backend_traffic(&mut self, from: u32, listener: Option<u32>, to: u32) -> anyhow::Result<()> {
        let moved = self.backend_traffic(from)?;
        if moved == BackendTraffic::default() {
            return Ok(());
        }
        if let Some(listener) = listener {
            let mut former = self.former_traffic.get(&listener, 0).context("read a counter")?;
            former += moved.forwarded;
            self.former_traffic.set(listener, former, 0).context("write a counter")?;
        }
        let mut values = self.backend_traffic.get(&to, 0).context("read a counter")?.to_vec();
        values[0] += moved;
        let values = PerCpuValues::try_from(values).context("a value for each CPU")?;
        self.backend_traffic.set(to, values, 0).context("write a counter")?;
        clear(&mut self.backend_traffic, from)
    }

    /// The last tick in which a flow was not pinned for want of budget.
    pub fn pins_refused(&self) -> anyhow::Result<u32> {
        let budgets = self.pin_budget.get(&0, 0).context("read the budget of pins")?;
        Ok(budgets.iter().map(|budget| budget.refused).max().unwrap_or_default())
    }

    /// The routes that are set.
    pub fn routes(&self) -> anyhow::Result<BTreeMap<Prefix, NextHop>> {
        let route = |entry: Result<(Key<Address>, NextHop), MapError>| {
            let (key, next_hop) = entry.context("read a route")?;
            Ok((route_prefix(&key), next_hop))
        };
        self.routes.iter().map(route).collect()
    }
}

fn route_prefix(key: &Key<Address>) -> Prefix {
    let address = IpAddr::from(key.data());
    let mapped_bits = if address.is_ipv4() { 96 } else { 0 };
    Prefix::new(address, (key.prefix_len() - mapped_bits) as u8)
}

/// Takes one map out of a loaded object.
pub fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<M> {
    let map = ebpf.take_map(name).ok_or_else(|| anyhow!("the program has no map {name}"))?;
    M::try_from(map).with_context(|| format!("map {name} is of another type"))
}

/// Removes an entry, unless the program was faster.
pub fn remove<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> anyhow::Result<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(anyhow!(error).context("remove an entry of a map")),
    }
}

/// An element of all CPUs, added up.
pub fn sum<T: Pod + Default + std::ops::AddAssign>(map: &PerCpuArray<MapData, T>, index: u32) -> anyhow::Result<T> {
    let mut total = T::default();
    for value in map.get(&index, 0).context("read a counter")?.iter() {
        total += *value;
    }
    Ok(total)
}

fn clear<T: Pod + Default>(map: &mut PerCpuArray<MapData, T>, index: u32) -> anyhow::Result<()> {
    let cpus = nr_cpus().map_err(|(file, error)| anyhow!("read {file}: {error}"))?;
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus]).context("a value for each CPU")?;
    map.set(index, zeros, 0).context("clear a counter")
}

/// IPv4 prefixes lie below `::ffff:0:0/96`, as IPv4 addresses do.
fn route_key(prefix: Prefix) -> Key<Address> {
    let mapped_bits = if prefix.address().is_ipv4() { 96 } else { 0 };
    Key::new(u32::from(prefix.length()) + mapped_bits, prefix.address().into())
}
