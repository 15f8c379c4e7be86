//! Privileges: the two that loading and attaching need, and nothing else once that is done.

use std::collections::HashSet;

use anyhow::{Context as _, bail};
use caps::{CapSet, Capability, CapsHashSet};

/// Fails if this process cannot load and attach a program.
pub fn check() -> anyhow::Result<()> {
    for capability in NEEDED {
        if !caps::has_cap(None, CapSet::Effective, capability).context("read this process's capabilities")? {
            bail!(
                "loading an XDP program needs {capability}, which this process lacks\n\
                 help: run clb as root: `sudo clb run …`"
            );
        }
    }
    Ok(())
}

/// Gives up every other capability: maps are written with the first, neighbours asked for with the second.
pub fn drop_others() -> anyhow::Result<()> {
    let kept: CapsHashSet = HashSet::from(NEEDED);
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).context("give up capabilities that are not needed")?;
    }
    Ok(())
}

const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
