//! The agent of clb: validates the configuration, loads and attaches the XDP program, and keeps its maps true.
//!
//! `cli` → `control` → {`config`, `slots`, `network`, `dataplane`}; `prefix` and `drain` serve them all; `api` is the socket between a running agent and the
//! commands that ask it. Only `dataplane` touches the kernel's maps, and only `network` talks netlink.

#![forbid(unsafe_code)]

pub mod api;
pub mod bench;
pub mod cli;
pub mod complaint;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod drain;
pub mod health;
pub mod metrics;
pub mod network;
pub mod prefix;
pub mod slots;
pub mod tracking;
