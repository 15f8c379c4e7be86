//! What differs between IPv4 and IPv6. Every stage behind `parse` is written once, over this trait.

use clb_common::{Address, DropReason, FlowHash, Port, checksum::Change};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::packet::Plain;

/// An IP header, of one family.
pub trait Family: Plain {
    const VERSION: u8;
    /// The transport protocol's number and offset behind the header, and which part of a datagram this is.
    fn payload(&self) -> Option<Payload>;
    fn source(&self) -> Address;
    fn destination(&self) -> Address;
    fn flow_hash(&self, flow_hash: &FlowHash, port: Port) -> u32;
    /// Rewrites the source address and patches this header's checksum; returns what the transport's must be patched by.
    fn set_source(&mut self, address: Address) -> Change;
    /// Rewrites the destination address likewise.
    fn set_destination(&mut self, address: Address) -> Change;
    /// Takes one from the TTL or hop limit, as whoever forwards a packet must.
    fn decrement_hop_limit(&mut self) -> Result<(), DropReason>;
}

/// What follows an IP header.
pub struct Payload {
    pub protocol: u8,
    /// Length of the IP header, with options.
    pub offset: usize,
    pub is_fragment: bool,
}

pub type V4 = Ipv4Hdr;
pub type V6 = Ipv6Hdr;

impl Family for V4 {
    const VERSION: u8 = 4;

    #[inline(always)]
    fn payload(&self) -> Option<Payload> {
        // Version 4, and a header of at least five words: the upper and the lower half of the first byte.
        if !(0x45..=0x4f).contains(&self.vihl) {
            return None;
        }
        let fragment = u16::from_be_bytes(self.frags);
        // Only a datagram's first fragment holds its ports.
        if fragment & FRAGMENT_OFFSET != 0 {
            return None;
        }
        Some(Payload {
            protocol: self.proto,
            offset: usize::from(self.vihl & 0x0f) * 4,
            is_fragment: fragment & MORE_FRAGMENTS != 0,
        })
    }

    #[inline(always)]
    fn source(&self) -> Address {
        Address::from_v4_word(u32::from_ne_bytes(self.src_addr))
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        Address::from_v4_word(u32::from_ne_bytes(self.dst_addr))
    }

    #[inline(always)]
    fn flow_hash(&self, flow_hash: &FlowHash, port: Port) -> u32 {
        flow_hash.hash([u32::from_ne_bytes(self.src_addr)], port.word())
    }

    #[inline(always)]
    fn set_source(&mut self, address: Address) -> Change {
        let change = replace(&mut self.src_addr, address);
        self.patch_checksum(change);
        change
    }

    #[inline(always)]
    fn set_destination(&mut self, address: Address) -> Change {
        let change = replace(&mut self.dst_addr, address);
        self.patch_checksum(change);
        change
    }

    #[inline(always)]
    fn decrement_hop_limit(&mut self) -> Result<(), DropReason> {
        if self.ttl <= 1 {
            return Err(DropReason::HopLimitExceeded);
        }
        let before = u16::from_ne_bytes([self.ttl, self.proto]);
        self.ttl -= 1;
        let after = u16::from_ne_bytes([self.ttl, self.proto]);
        self.patch_checksum(Change::default().half_word(before, after));
        Ok(())
    }
}

/// The checksum of an IPv4 header. IPv6 has none.
trait HeaderChecksum {
    fn patch_checksum(&mut self, change: Change);
}

impl HeaderChecksum for Ipv4Hdr {
    #[inline(always)]
    fn patch_checksum(&mut self, change: Change) {
        self.check = change.apply(u16::from_ne_bytes(self.check)).to_ne_bytes();
    }
}

#[inline(always)]
fn replace(field: &mut [u8; 4], address: Address) -> Change {
    let before = u32::from_ne_bytes(*field);
    *field = address.v4_word().to_ne_bytes();
    Change::default().word(before, address.v4_word())
}

impl Family for V6 {
    const VERSION: u8 = 6;

    #[inline(always)]
    fn payload(&self) -> Option<Payload> {
        (self.vcf[0] >> 4 == 6).then_some(Payload {
            protocol: self.next_hdr,
            offset: size_of::<Self>(),
            is_fragment: false,
        })
    }

    #[inline(always)]
    fn source(&self) -> Address {
        Address(words(&self.src_addr))
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        Address(words(&self.dst_addr))
    }

    #[inline(always)]
    fn flow_hash(&self, flow_hash: &FlowHash, port: Port) -> u32 {
        flow_hash.hash(words(&self.src_addr), port.word())
    }

    #[inline(always)]
    fn set_source(&mut self, address: Address) -> Change {
        replace_v6(&mut self.src_addr, address)
    }

    #[inline(always)]
    fn set_destination(&mut self, address: Address) -> Change {
        replace_v6(&mut self.dst_addr, address)
    }

    #[inline(always)]
    fn decrement_hop_limit(&mut self) -> Result<(), DropReason> {
        if self.hop_limit <= 1 {
            return Err(DropReason::HopLimitExceeded);
        }
        self.hop_limit -= 1;
        Ok(())
    }
}

#[inline(always)]
fn words(octets: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

#[inline(always)]
fn replace_v6(field: &mut [u8; 16], address: Address) -> Change {
    let before = words(field);
    let after = address.0;
    let mut change = Change::default();
    let mut index = 0;
    while index < after.len() {
        change = change.word(before[index], after[index]);
        let [a, b, c, d] = after[index].to_ne_bytes();
        field[index * 4] = a;
        field[index * 4 + 1] = b;
        field[index * 4 + 2] = c;
        field[index * 4 + 3] = d;
        index += 1;
    }
    change
}

/// RFC 791, section 3.1: the flag and the offset share a field.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
