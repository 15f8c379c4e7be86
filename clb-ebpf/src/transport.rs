//! TCP and UDP differ, for clb, in where the checksum stands and how it is patched.

use clb_common::{DropReason, Port, Protocol, Seen, checksum::Change};
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use crate::packet::{Byte, HalfWord, Packet};

/// The first four bytes of TCP and UDP: source and destination.
pub type Ports = [HalfWord; 2];

/// Reads ports as they stand in the packet.
pub trait ReadPorts {
    fn source(&self) -> Port;
    fn destination(&self) -> Port;
}

impl ReadPorts for Ports {
    #[inline(always)]
    fn source(&self) -> Port {
        Port::from_word(self[0].0)
    }

    #[inline(always)]
    fn destination(&self) -> Port {
        Port::from_word(self[1].0)
    }
}

/// New ports for a packet.
#[derive(Clone, Copy, Default)]
pub struct Rewrite {
    pub source: Option<Port>,
    pub destination: Option<Port>,
}

impl Rewrite {
    /// Writes the ports; returns what the checksum must be patched by.
    #[inline(always)]
    pub fn apply(self, ports: &mut Ports) -> Change {
        let [source, destination] = ports;
        replace(source, self.source).and(replace(destination, self.destination))
    }
}

#[inline(always)]
fn replace(field: &mut HalfWord, port: Option<Port>) -> Change {
    let Some(port) = port else { return Change::default() };
    let before = core::mem::replace(field, HalfWord(port.word())).0;
    Change::default().half_word(before, port.word())
}

/// Rewrites ports, and patches the checksum for them and for `change`, what became of the IP addresses.
#[inline(always)]
pub fn rewrite(
    packet: &Packet,
    offset: usize,
    protocol: Protocol,
    ports: Rewrite,
    change: Change,
) -> Result<(), DropReason> {
    let checksum = match protocol {
        Protocol::Tcp => &mut packet.view_mut::<TcpHdr>(offset).ok_or(DropReason::TruncatedHeader)?.check,
        Protocol::Udp => &mut packet.view_mut::<UdpHdr>(offset).ok_or(DropReason::TruncatedHeader)?.check,
    };
    let change = change.and(ports.apply(packet.view_mut(offset).ok_or(DropReason::TruncatedHeader)?));
    *checksum = patched(protocol, u16::from_ne_bytes(*checksum), change).to_ne_bytes();
    Ok(())
}

/// A checksum after a change.
#[inline(always)]
pub fn patched(protocol: Protocol, checksum: u16, change: Change) -> u16 {
    match protocol {
        Protocol::Tcp => change.apply(checksum),
        Protocol::Udp => change.apply_to_udp(checksum),
    }
}

/// The header without options: what a packet has at least.
#[inline(always)]
pub const fn header_length(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => TcpHdr::LEN as u32,
        Protocol::Udp => UdpHdr::LEN as u32,
    }
}

/// Where the checksum stands in the header.
#[inline(always)]
pub const fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => core::mem::offset_of!(TcpHdr, check),
        Protocol::Udp => core::mem::offset_of!(UdpHdr, check),
    }
}

/// What a segment says of its connection.
#[inline(always)]
pub fn marks(packet: &Packet, offset: usize, protocol: Protocol) -> Result<u32, DropReason> {
    match protocol {
        Protocol::Tcp => {
            let flags = packet.view::<Byte>(offset + FLAGS).ok_or(DropReason::TruncatedHeader)?.0;
            let established = if flags & SYN == 0 { Seen::ESTABLISHED } else { 0 };
            let finished = if flags & FIN != 0 { Seen::FINISHED } else { 0 };
            let reset = if flags & RST != 0 { Seen::RESET } else { 0 };
            Ok(established | finished | reset)
        }
        Protocol::Udp => Ok(Seen::ESTABLISHED),
    }
}

/// RFC 9293, section 3.1.
const FLAGS: usize = 13;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
