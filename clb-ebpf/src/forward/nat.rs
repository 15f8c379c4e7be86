//! `nat`: the destination becomes the backend's address and port. The way back is in `reply`.

use clb_common::DropReason;

use super::{Outgoing, next_hop, rewritten};
use crate::{
    family::Family,
    parse::Headers,
    transport::{self, Rewrite},
    verdict::Verdict,
};

/// Sends a packet to its backend's address.
#[inline(always)]
pub fn send<F: Family>(out: &Outgoing<F>, headers: &Headers<F>) -> Result<Verdict, DropReason> {
    let next_hop = next_hop(out, 0)?;
    let backend = out.selected.backend;
    let network = out.packet.view_mut::<F>(headers.link.length()).ok_or(DropReason::TruncatedHeader)?;
    let change = network.set_destination(backend.address);
    let ports = Rewrite { source: None, destination: Some(backend.port) };
    transport::rewrite(out.packet, headers.transport_offset, headers.protocol, ports, change)?;
    rewritten(out, next_hop)
}
