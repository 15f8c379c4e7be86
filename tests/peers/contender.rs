//! Who is measured, and how each is set up.
//!
//! Every one gets a plain set-up by its own manual, for the same VIP and the same three backends. Proxies have a worker for
//! each CPU.

use std::net::SocketAddr;

use crate::{
    config::{Listener, Mode},
    site::{BACKENDS, PRIVATE_PORT, VIP},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// None: the client's kernel spreads its connections over routes to the backends.
    Direct,
    Dsr,
    Nat,
    FullNat,
    Nftables,
    HaProxy,
    Nginx,
}

impl Contender {
    pub const ALL: [Self; 7] =
        [Self::Direct, Self::Dsr, Self::Nat, Self::FullNat, Self::Nftables, Self::HaProxy, Self::Nginx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "none (routes of the client)",
            Self::Dsr => "clb, dsr",
            Self::Nat => "clb, nat",
            Self::FullNat => "clb, full_nat",
            Self::Nftables => "nftables, DNAT by jhash",
            Self::HaProxy => "HAProxy, TCP",
            Self::Nginx => "nginx, stream",
        }
    }

    /// What tells its version, if it is a program of others.
    pub fn version(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Nftables => Some(["nft", "--version"]),
            Self::HaProxy => Some(["haproxy", "-v"]),
            Self::Nginx => Some(["nginx", "-v"]),
            Self::Direct | Self::Dsr | Self::Nat | Self::FullNat => None,
        }
    }
}

/// clb's listener, in this mode.
pub fn listener(mode: Mode) -> Listener {
    let port = if mode == Mode::Dsr { VIP.port() } else { PRIVATE_PORT };
    Listener::tcp("peers", &VIP.to_string(), mode, port, BACKENDS)
}

/// Chooses by the client's address and port, as clb does; the kernel tracks connections.
pub fn nftables(backends: &[SocketAddr]) -> String {
    let map: Vec<_> =
        backends.iter().enumerate().map(|(number, backend)| format!("{number} : {}", backend.ip())).collect();
    format!(
        "table ip peers {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip daddr {} tcp dport {} dnat to jhash ip saddr . tcp sport mod {} map {{ {} }} : {PRIVATE_PORT}
    }}
}}
",
        VIP.ip(),
        VIP.port(),
        backends.len(),
        map.join(", ")
    )
}

pub fn haproxy(backends: &[SocketAddr]) -> String {
    let servers: Vec<_> =
        (1..).zip(backends).map(|(number, backend)| format!("    server ins-{number} {backend}")).collect();
    let servers = servers.join("\n");
    format!(
        "global
    maxconn {MOST_CONNECTIONS}
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend peers
    bind {VIP}
    default_backend peers
backend peers
{servers}
"
    )
}

/// `folder` is for its pid and its log.
pub fn nginx(backends: &[SocketAddr], folder: &str) -> String {
    let servers: Vec<_> = backends.iter().map(|backend| format!("        server {backend};")).collect();
    let servers = servers.join("\n");
    // On Debian, a module is a package, which leaves a file there that loads it.
    format!(
        "include /etc/nginx/modules-enabled/*.conf;
daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{
    worker_connections {MOST_DESCRIPTORS};
}}
stream {{
    upstream peers {{
{servers}
    }}
    server {{
        listen {VIP};
        proxy_pass peers;
    }}
}}
"
    )
}

/// Of clients; a proxy has one more, to a backend, for each.
const MOST_CONNECTIONS: usize = 4_096;
const MOST_DESCRIPTORS: usize = 2 * MOST_CONNECTIONS;
