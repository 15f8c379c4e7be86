//! The program of `clb decap`, loaded: whom it trusts, which addresses it takes for the host's, and what it counted.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::Xdp,
};
use clb_common::{
    Version,
    decap::{Received, TunnelEnd},
};

use super::{
    attach::{self, AttachMode, Attachment},
    maps,
    program::{load_program, refused},
};
use crate::prefix::Prefix;

/// The loaded program with its maps. Dropping it detaches the program.
pub struct Decapsulator {
    ebpf: Ebpf,
    own: HashMap<MapData, TunnelEnd, u32>,
    received: PerCpuArray<MapData, u64>,
    /// What `own` holds.
    addresses: BTreeSet<IpAddr>,
}

impl Decapsulator {
    /// Loads the program, which then takes off what comes from these prefixes. It knows no address of the host yet, and is
    /// attached to nothing.
    pub fn load(sources: &[Prefix], gue_port: u16) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("GUE_PORT", &u32::from(gue_port.to_be()), true)
            .map_max_entries("SOURCES", sources.len().max(1) as u32)
            .map_max_entries("OWN", OWN)
            .load(OBJECT)
            .map_err(|error| refused("create the maps of the XDP program", error))?;
        let mut trusted: LpmTrie<MapData, TunnelEnd, u32> = maps::take(&mut ebpf, "SOURCES")?;
        for source in sources {
            let length = TunnelEnd::prefix_length(Version::of(source.address()), source.length());
            trusted.insert(&Key::new(length, source.address().into()), PRESENT, 0).context("write a trusted source")?;
        }
        let (own, received) = (maps::take(&mut ebpf, "OWN")?, maps::take(&mut ebpf, "RECEIVED")?);
        load_program(&mut ebpf, PROGRAM)?;
        Ok(Self { ebpf, own, received, addresses: BTreeSet::new() })
    }

    /// Makes these the addresses whose packets are taken off.
    pub fn set_own_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> anyhow::Result<()> {
        ensure!(
            addresses.len() <= OWN as usize,
            "this host has {} addresses, more than the {OWN} that clb decap can know",
            addresses.len()
        );
        for &gone in self.addresses.difference(&addresses) {
            self.own.remove(&gone.into()).context("remove an own address")?;
        }
        for &new in addresses.difference(&self.addresses) {
            self.own.insert(TunnelEnd::from(new), PRESENT, 0).context("write an own address")?;
        }
        self.addresses = addresses;
        Ok(())
    }

    /// Attaches the program to an interface that has none.
    pub fn attach(&mut self, interface: &str, index: u32, mode: AttachMode) -> anyhow::Result<Attachment> {
        attach::attach(self.xdp()?, interface, index, mode)
    }

    /// The program itself, to run it on packets of one's own.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        let program = self.ebpf.program_mut(PROGRAM).context("the object holds the program `decap`")?;
        Ok(program.try_into()?)
    }

    /// What became of packets in tunnels to this host so far, in the order of [`Received::ALL`].
    pub fn received(&self) -> anyhow::Result<Vec<(Received, u64)>> {
        Received::ALL.iter().map(|&kind| Ok((kind, maps::sum(&self.received, kind as u32)?))).collect()
    }
}

const PROGRAM: &str = "decap";

/// The program, as `cargo xtask build` compiled it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CLB_EBPF_DECAP_OBJECT"));

/// Addresses of one host that the program can know.
const OWN: u32 = 4_096;
/// The maps are sets: only the keys matter.
const PRESENT: u32 = 1;
