//! Links: veth pairs between two hosts, and switches with many ports.
//!
//! Checksums are filled in by the sender on every link: XDP forwards packets as they are, and a checksum left to a card
//! that does not exist would never become real. Receivers do not merge segments, for the same reason.

use anyhow::{Result, ensure};

use crate::{Host, Lab};

impl Lab {
    /// Joins two hosts by a veth pair, and brings both ends up.
    pub fn link(&self, one: &Host, one_device: &str, other: &Host, other_device: &str) -> Result<()> {
        for device in [one_device, other_device] {
            ensure!(device.len() < INTERFACE_NAME_SIZE, "an interface cannot be called {device}: that is too long");
        }
        one.run(&format!("ip link add {one_device} type veth peer name {other_device} netns {}", other.namespace()))?;
        for (host, device) in [(one, one_device), (other, other_device)] {
            host.run(&format!("ethtool -K {device} tx off gro off"))?;
            host.run(&format!("ip link set {device} up"))?;
        }
        Ok(())
    }

    /// A switch: a host of its own with a bridge.
    pub fn switch(&self, label: &str) -> Result<Host> {
        let switch = self.host(label)?;
        // It forwards frames and has no addresses.
        switch.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        switch.run(&format!("ip link add {BRIDGE} type bridge mcast_snooping 0"))?;
        switch.run(&format!("ip link set {BRIDGE} up"))?;
        Ok(switch)
    }

    /// Gives a host an interface on a switch. Programs on the interface may send XDP frames.
    pub fn plug(&self, switch: &Host, host: &Host, device: &str) -> Result<()> {
        let port = format!("{}-{device}", host.label());
        self.link(host, device, switch, &port)?;
        switch.run(&format!("ip link set {port} master {BRIDGE}"))?;
        self.receive_frames(switch, &port)
    }
}

const BRIDGE: &str = "bridge";

/// IFNAMSIZ, with the zero at the end.
const INTERFACE_NAME_SIZE: usize = 16;
