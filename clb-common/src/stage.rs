//! The programs that share a packet's way. The kernel gives each 512 bytes of stack and verifies each by itself; one hands a
//! packet on to the next by a tail call.

/// A program that another one calls. The numbers are indexes of the program map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Walks over the headers of packets that are not plain.
    Walk = 0,
    /// For IPv4 packets that were walked over.
    UnusualV4 = 1,
    /// For IPv6 packets that were walked over.
    UnusualV6 = 2,
    /// For fragments behind the first.
    FragmentV4 = 3,
    /// For fragments of IPv6 behind the first.
    FragmentV6 = 4,
    /// For ICMP.
    IcmpV4 = 5,
    /// For ICMP of IPv6.
    IcmpV6 = 6,
    /// For flows in `full_nat`.
    FullNatV4 = 7,
    /// For flows of IPv6 in `full_nat`.
    FullNatV6 = 8,
    /// Sends packets that are not plain to their backend, as they came or in another header.
    DeliverV4 = 9,
    /// The same for IPv6.
    DeliverV6 = 10,
    /// For packets whose sender is told that they are too big.
    TooBig = 11,
}

/// Number of elements of the program map.
pub const STAGES: u32 = Stage::ALL.len() as u32;

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Walk,
        Self::UnusualV4,
        Self::UnusualV6,
        Self::FragmentV4,
        Self::FragmentV6,
        Self::IcmpV4,
        Self::IcmpV6,
        Self::FullNatV4,
        Self::FullNatV6,
        Self::DeliverV4,
        Self::DeliverV6,
        Self::TooBig,
    ];

    /// The program's name in the object.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::UnusualV4 => "unusual_v4",
            Self::UnusualV6 => "unusual_v6",
            Self::FragmentV4 => "fragment_v4",
            Self::FragmentV6 => "fragment_v6",
            Self::IcmpV4 => "icmp_v4",
            Self::IcmpV6 => "icmp_v6",
            Self::FullNatV4 => "full_nat_v4",
            Self::FullNatV6 => "full_nat_v6",
            Self::DeliverV4 => "deliver_v4",
            Self::DeliverV6 => "deliver_v6",
            Self::TooBig => "too_big",
        }
    }
}
