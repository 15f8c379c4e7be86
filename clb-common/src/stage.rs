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
    /// For clients' packets in `full_nat`.
    FullNatV4 = 7,
    /// The same for IPv6.
    FullNatV6 = 8,
    /// Sends packets that are not plain to their backend, as they came or in another header.
    DeliverV4 = 9,
    /// The same for IPv6.
    DeliverV6 = 10,
    /// For packets whose sender is told that they are too big.
    TooBig = 11,
    /// For ICMP errors about what a backend sent.
    ErrorToClientV4 = 12,
    /// The same for IPv6.
    ErrorToClientV6 = 13,
    /// For packets for no listener: in `full_nat` they may be a backend's.
    FullNatReplyV4 = 14,
    /// The same for IPv6.
    FullNatReplyV6 = 15,
}

/// Number of elements of the program map.
pub const STAGES: u32 = Stage::ALL.len() as u32;

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: [Self; 16] = [
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
        Self::ErrorToClientV4,
        Self::ErrorToClientV6,
        Self::FullNatReplyV4,
        Self::FullNatReplyV6,
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
            Self::ErrorToClientV4 => "to_client_v4",
            Self::ErrorToClientV6 => "to_client_v6",
            Self::FullNatReplyV4 => "reply_v4",
            Self::FullNatReplyV6 => "reply_v6",
        }
    }
}
