//! The addresses that backends see in `full_nat`, as the program's pool has them.
//!
//! Flows that have an address keep it when it leaves the pool, until they end: only new ones are given another.

use std::net::IpAddr;

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use clb_common::{Address, POOL_ADDRESSES, Pool};

use super::maps::take;

/// The pool, and what was written to it.
pub struct SourcePool {
    sources: Array<MapData, Address>,
    pool: Array<MapData, Pool>,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl SourcePool {
    /// The empty pool of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self { sources: take(ebpf, "SOURCES")?, pool: take(ebpf, "POOL")?, v4: Vec::new(), v6: Vec::new() })
    }

    /// That of an object whose maps an agent wrote.
    pub fn adopt(&mut self) -> anyhow::Result<()> {
        let size = self.pool.get(&0, 0).context("read the size of the pool of source addresses")?;
        let addresses = |first: u32, number: u32| -> anyhow::Result<Vec<IpAddr>> {
            let address = |place| Ok(IpAddr::from(self.sources.get(&place, 0).context("read a source address")?));
            (first..first + number).map(address).collect()
        };
        (self.v4, self.v6) = (addresses(0, size.v4)?, addresses(POOL_ADDRESSES, size.v6)?);
        Ok(())
    }

    /// Makes these the addresses of the pool; of more than it holds the first ones.
    pub fn write(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
        let (v4, v6) = (places(&self.v4, &v4), places(&self.v6, &v6));
        for (first, before, after) in [(0, &self.v4, &v4), (POOL_ADDRESSES, &self.v6, &v6)] {
            for (place, address) in after.iter().enumerate().filter(|&(place, new)| before.get(place) != Some(new)) {
                let address = Address::from(*address);
                self.sources.set(first + place as u32, address, 0).context("write a source address")?;
            }
        }
        let pool = Pool { v4: v4.len() as u32, v6: v6.len() as u32 };
        self.pool.set(0, pool, 0).context("write the size of the pool of source addresses")?;
        (self.v4, self.v6) = (v4, v6);
        Ok(())
    }

    /// How many addresses it has.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// Where each address goes: one that stays keeps its place if it can, since packets read the pool meanwhile.
fn places(before: &[IpAddr], wanted: &[IpAddr]) -> Vec<IpAddr> {
    let wanted = &wanted[..wanted.len().min(POOL_ADDRESSES as usize)];
    let kept = |place| before.get(place).filter(|address| wanted.contains(address)).copied();
    let kept: Vec<Option<IpAddr>> = (0..wanted.len()).map(kept).collect();
    let mut others = wanted.iter().copied().filter(|address| !kept.contains(&Some(*address)));
    kept.iter().filter_map(|kept| kept.or_else(|| others.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_stays_keeps_its_place() {
        let ip = |host: &u8| IpAddr::from([198, 51, 100, *host]);
        for (name, before, wanted, expected) in [
            ("the first", &[][..], &[1, 2][..], &[1, 2][..]),
            ("one more", &[2, 3], &[1, 2, 3], &[2, 3, 1]),
            ("another instead", &[1, 2, 3], &[1, 3, 9], &[1, 9, 3]),
            ("one less", &[1, 2, 3], &[2, 3], &[3, 2]),
            ("none", &[1, 2], &[], &[]),
        ] {
            let of = |hosts: &[u8]| hosts.iter().map(ip).collect::<Vec<_>>();
            assert_eq!(places(&of(before), &of(wanted)), of(expected), "{name}");
        }
    }
}
