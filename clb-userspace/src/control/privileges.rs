//! Privileges: what loading and attaching need, and less once that is done.

use anyhow::{Context as _, bail};
use caps::{CapSet, Capability};

/// Fails if this process cannot load and attach a program.
pub fn check() -> anyhow::Result<()> {
    for capability in TO_START {
        if !caps::has_cap(None, CapSet::Effective, capability).context("read this process's capabilities")? {
            bail!(
                "loading an XDP program needs {capability}, which this process lacks\n\
                 help: run clb as root: `sudo clb …`"
            );
        }
    }
    Ok(())
}

/// Gives up every capability that serving does not need.
pub fn drop_others() -> anyhow::Result<()> {
    for set in [CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set).context("read this process's capabilities")?;
        let kept = held.into_iter().filter(|capability| TO_SERVE.contains(capability)).collect();
        caps::set(None, set, &kept).context("give up capabilities that are not needed")?;
    }
    Ok(())
}

/// Without the second the verifier forbids some arithmetic with pointers into the packet.
const TO_START: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];

/// Maps are written with the first, and with the second another instance of the program is loaded when a reload needs a mode
/// that none had. Neighbours are asked for with the third, and with the fourth, if it is there, a reload reads the file where
/// it was read at the start: it may lie in another user's private folder.
///
/// `CAP_SYS_ADMIN` is not among them: it is used once, at the start, to make the file system that instances share maps by.
/// Without it clb starts just as well, and refuses such a reload.
const TO_SERVE: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN, Capability::CAP_DAC_READ_SEARCH];
