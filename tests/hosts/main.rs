//! Hosts: real sockets through real namespaces, with the agent as a user runs it.
//!
//! A file is what a user would notice: that traffic arrives, that a reload is followed, that the host's own traffic is left
//! alone, that a start is refused. Every test makes a lab of its own, so tests run side by side.

mod accounting;
mod apply;
mod bench;
mod churn;
mod config;
mod connection;
mod datagrams;
mod decap;
mod drain;
mod ending;
mod explain;
mod flood;
mod flow_end;
mod forwarding;
mod health;
mod http;
mod interfaces;
mod migration;
mod modes;
mod monitoring;
mod network;
mod next_hops;
mod own_traffic;
mod path_mtu;
mod refusals;
mod reload;
mod restart;
mod services;
mod socket;
mod tracking;
mod watch;

#[path = "../command_line/binary.rs"]
mod binary;
