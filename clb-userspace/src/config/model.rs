//! The configuration as meant: what is left of a file that keeps all rules. Valid by construction: only
//! [`super::load`] makes one.
//!
//! Listeners and backends stand in an order of their own, so that two files that say the same give equal values.

use std::{net::IpAddr, time::Duration};

use clb_common::Protocol;
use serde::{Deserialize, Serialize};

use super::{
    as_written,
    cloud::{Cvm, Eni},
    health_check::HealthCheck,
};
use crate::prefix::Prefix;

/// A load balancer and all that it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its id.
    pub id: String,
    /// The VPC of all that is bound.
    pub vpc: String,
    /// Where the XDP program is attached.
    pub interfaces: Vec<String>,
    /// The key of the flow hash: as given, or derived from the id.
    pub hash_seed: u64,
    /// Where outer headers come from, in `ipip` and `gue`.
    pub tunnel_sources: TunnelSources,
    /// The UDP port that backends receive `gue` on.
    pub gue_port: u16,
    /// The addresses that backends see in `full_nat`, ordered.
    pub source_addresses: Vec<IpAddr>,
    /// How many flows `full_nat` can remember.
    pub max_flows: u32,
    /// Ordered by id.
    pub cvms: Vec<Cvm>,
    /// Ordered by id.
    pub enis: Vec<Eni>,
    /// Ordered by VIP, protocol and port.
    pub listeners: Vec<Listener>,
}

/// Where outer headers come from: a prefix of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSources {
    /// For IPv4 backends.
    pub v4: Prefix,
    /// For IPv6 backends.
    pub v6: Prefix,
}

/// A VIP, a protocol and a port, and who serves them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name, unique in the configuration.
    pub name: String,
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// TCP or UDP.
    #[serde(with = "as_written::protocol")]
    pub protocol: Protocol,
    /// The port that clients connect to.
    pub port: u16,
    /// How packets reach the backends.
    pub forwarding: Forwarding,
    /// The size of its slot table.
    pub slots: u32,
    /// What a client's packets have in common.
    pub affinity: Affinity,
    /// How long old connections keep a backend that lost its slots.
    #[serde(with = "as_written::duration")]
    pub drain: Duration,
    /// After how long without packets a remembered flow ends.
    #[serde(with = "as_written::duration")]
    pub idle_timeout: Duration,
    /// What becomes of the connections of a backend that fails its checks.
    pub on_unhealthy: OnUnhealthy,
    /// How backends are checked; `None`: they are not.
    pub health_check: Option<HealthCheck>,
    /// Ordered by address and port.
    pub backends: Vec<Backend>,
}

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarding {
    /// Rewrite the MAC address; the backend answers the client itself.
    Dsr,
    /// Encapsulate in IP; the backend answers the client itself.
    Ipip,
    /// Encapsulate in UDP; the backend answers the client itself.
    Gue,
    /// Rewrite the destination; replies come back through clb.
    Nat,
    /// Rewrite both ends; replies come back through clb.
    FullNat,
}

impl Forwarding {
    /// The name as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
        }
    }

    /// Whether the backend gets the client's packet with the listener's port in it.
    pub const fn keeps_the_port(self) -> bool {
        matches!(self, Self::Dsr | Self::Ipip | Self::Gue)
    }

    /// Whether packets for the VIP can reach this backend: only where they are encapsulated can the families differ.
    pub const fn can_reach(self, vip: IpAddr, backend: IpAddr) -> bool {
        matches!(self, Self::Ipip | Self::Gue) || vip.is_ipv4() == backend.is_ipv4()
    }
}

/// Which packets must reach the same backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Those of one 5-tuple.
    #[default]
    Connection,
    /// Those of one client address.
    ClientIp,
}

/// What becomes of the connections of a backend that fails its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnhealthy {
    /// They go to another backend at once, so that clients notice and reconnect.
    #[default]
    Move,
    /// They stay, as in a drain.
    Keep,
}

/// One bound target of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its private IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new connections, 0 to 100.
    pub weight: u8,
    /// As what it is bound.
    #[serde(rename = "as")]
    pub kind: BackendKind,
    /// The id of the CVM that it is on.
    pub cvm: String,
    /// The id of the ENI that has the address.
    pub eni: String,
}

/// As what a backend is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// The primary private IP of a CVM's primary ENI.
    Cvm,
    /// Any other private IP of an ENI.
    Eni,
}

impl BackendKind {
    /// The key in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cvm => "cvm",
            Self::Eni => "eni",
        }
    }
}
