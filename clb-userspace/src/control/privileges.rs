//! Privileges: the two that loading and attaching need, and little else once that is done.

use anyhow::{Context as _, bail};
use caps::{CapSet, Capability};

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

/// Gives up every other capability but one: maps are written with the first, neighbours asked for with the second, and a
/// reload reads the file where it was read at the start, be it in another user's private folder.
pub fn drop_others() -> anyhow::Result<()> {
    let is_kept =
        |capability: &Capability| NEEDED.contains(capability) || *capability == Capability::CAP_DAC_READ_SEARCH;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set).context("read this process's capabilities")?;
        let kept = held.into_iter().filter(is_kept).collect();
        caps::set(None, set, &kept).context("give up capabilities that are not needed")?;
    }
    Ok(())
}

const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
