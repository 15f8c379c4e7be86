//! What the benchmark tells the program that stands before the measured one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ethernet, IPv6 and TCP headers, in words.
pub const HEADER_WORDS: usize = 10;

/// The packet that every run begins with, and how one flow differs from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Template {
    /// The packet's first bytes.
    pub headers: [u64; HEADER_WORDS],
    /// Counts the packets.
    pub flow: u32,
    /// Number of flows less one; a power of two less one.
    pub flow_mask: u32,
    /// Offset of the source port.
    pub ports_at: u32,
    /// Offset of the client's address: of its last word.
    pub address_at: u32,
    /// That word of the first flow.
    pub address: u32,
    /// The packet's length: a measured program may have made it longer.
    pub length: u32,
}
