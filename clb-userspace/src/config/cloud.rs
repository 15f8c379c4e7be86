//! The part of the cloud that a configuration describes, as meant: CVMs and their ENIs.
//!
//! Valid by construction, as all of [`super::Config`]: ids and addresses are unique, `attached_to` names a CVM of the same
//! VPC and zone, and a primary ENI has one. What a change of the file may do is asked of this, by `rules/changes.rs`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cvm {
    /// Its id.
    pub id: String,
    /// The VPC that it is in.
    pub vpc: String,
    /// The zone that it is in.
    pub zone: String,
}

/// A network interface with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eni {
    /// Its id.
    pub id: String,
    /// What it is to its CVM.
    pub role: Role,
    /// The VPC that it is in.
    pub vpc: String,
    /// The zone that it is in.
    pub zone: String,
    /// The id of its CVM.
    pub attached_to: Option<String>,
    /// Its primary private IP.
    pub primary_ip: IpAddr,
    /// Its other private IPs, ordered.
    pub secondary_ips: Vec<IpAddr>,
}

/// What an ENI is to its CVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The CVM was born with it, and keeps it.
    Primary,
    /// Attached later.
    Secondary,
}
