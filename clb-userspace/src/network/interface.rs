//! A network interface, as much of it as clb needs.

use std::fmt;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; only Ethernet interfaces have one.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet it takes.
    pub mtu: u32,
    /// Whether it can send.
    pub state: LinkState,
    /// The XDP program on it as of the kernel's last message about the interface: after [`super::Network::connect`] it is
    /// true, but a BPF link that attaches or detaches one later sends no message.
    pub xdp: Option<AttachedProgram>,
    /// The VLAN that it stands for, if it is a VLAN device.
    pub vlan: Option<Vlan>,
}

/// What a VLAN device stands for: `eth0.100` for VLAN 100 of `eth0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The index of the interface that its frames leave by.
    pub parent: u32,
    /// The VLAN's number.
    pub id: u16,
    /// Its kind of tag.
    pub tag: Tag,
}

/// A kind of VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// That of a customer (802.1Q).
    Customer,
    /// That of a provider (802.1ad).
    Provider,
}

/// Whether a link can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Set up, with carrier.
    Up,
    /// Set up, without carrier.
    NoCarrier,
    /// Set down.
    Down,
}

impl fmt::Display for LinkState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Up => "is up",
            Self::NoCarrier => "has no carrier",
            Self::Down => "is down",
        })
    }
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number of the program.
    pub id: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, after a socket buffer was made.
    Generic,
    /// On the network card.
    Offloaded,
}
