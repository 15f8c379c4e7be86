//! `dsr`: the backend holds the VIP, so the packet stays as it is and goes to the backend's MAC address.

use clb_common::DropReason;

use super::{Outgoing, next_hop};
use crate::{count, family::Family, link, verdict::Verdict};

/// Sends a packet as it came.
#[inline(always)]
pub fn send<F: Family>(out: &Outgoing<F>) -> Result<Verdict, DropReason> {
    let next_hop = next_hop(out, 0)?;
    let verdict = link::forward(out.packet, &out.link, next_hop, F::ETHER_TYPE)?;
    count::forwarded(out.selected.index, out.length);
    Ok(verdict)
}
