//! `ipip`: the packet in another IP header (RFC 2003, RFC 2473), of either family around either.

use clb_common::{DropReason, ForwardingMode};

use super::{Outgoing, next_hop, outer, overhead};
use crate::{count, family::Family, link, verdict::Verdict};

/// Sends a packet to its backend in an IP header.
#[inline(always)]
pub fn send<F: Family>(out: &Outgoing<F>) -> Result<Verdict, DropReason> {
    let next_hop = next_hop(out, overhead(out, ForwardingMode::Ipip))?;
    let (packet, outer) = outer::put_around(out, F::ENCAPSULATED, 0)?;
    let verdict = link::send(&packet, &out.link, next_hop, outer.ether_type())?;
    count::forwarded(out.selected.index, out.length);
    Ok(verdict)
}
