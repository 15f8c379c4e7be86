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
    /// The packet's length: a measured program may have made it longer.
    pub length: u32,
    /// The next packet's flow.
    pub flow: u32,
    /// How many there are before the first comes again.
    pub flows: u32,
    /// Offset of the port that differs.
    pub port_at: u32,
    /// Offset of the address that differs: of its last word.
    pub address_at: u32,
    /// That word of the first flow.
    pub address: u32,
    /// The next packet's listener.
    pub listener: u32,
    /// How many there are before the first comes again.
    pub listeners: u32,
    /// Offset of the port that tells them apart. If there is one only, it is not written.
    pub listener_at: u32,
    /// The port of the first.
    pub listener_port: u32,
}
