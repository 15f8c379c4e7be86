//! TCP and UDP differ, for clb, in where the checksum stands and how it is patched.

use clb_common::{DropReason, Port, Protocol, checksum};
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use crate::packet::Packet;

/// The first four bytes of TCP and UDP.
#[repr(C)]
pub struct Ports {
    source: [u8; 2],
    destination: [u8; 2],
}

impl Ports {
    #[inline(always)]
    pub fn source(&self) -> Port {
        Port::from_word(u16::from_ne_bytes(self.source))
    }

    #[inline(always)]
    pub fn destination(&self) -> Port {
        Port::from_word(u16::from_ne_bytes(self.destination))
    }
}

/// Which of the two ports is rewritten.
#[derive(Clone, Copy)]
pub enum End {
    Source,
    Destination,
}

/// Rewrites one port, and patches the checksum for it and for `change`, what became of the IP addresses.
#[inline(always)]
pub fn rewrite_port(
    packet: &Packet,
    offset: usize,
    protocol: Protocol,
    end: End,
    port: Port,
    change: checksum::Change,
) -> Result<(), DropReason> {
    let checksum = match protocol {
        Protocol::Tcp => &mut packet.view_mut::<TcpHdr>(offset).ok_or(DropReason::MalformedHeader)?.check,
        Protocol::Udp => &mut packet.view_mut::<UdpHdr>(offset).ok_or(DropReason::MalformedHeader)?.check,
    };
    let ports = packet.view_mut::<Ports>(offset).ok_or(DropReason::MalformedHeader)?;
    let rewritten = match end {
        End::Source => &mut ports.source,
        End::Destination => &mut ports.destination,
    };
    let change = change.half_word(u16::from_ne_bytes(*rewritten), port.word());
    *rewritten = port.word().to_ne_bytes();
    let before = u16::from_ne_bytes(*checksum);
    let after = match protocol {
        Protocol::Tcp => change.apply(before),
        Protocol::Udp => change.apply_to_udp(before),
    };
    *checksum = after.to_ne_bytes();
    Ok(())
}
