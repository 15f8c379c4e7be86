//! `clb decap`: the receiving end of `ipip` and `gue`.

use std::process::ExitCode;

use anyhow::Context as _;

use super::run::start_logging;
use crate::{
    control::decap::{self, Options},
    dataplane::AttachMode,
    prefix::Prefix,
};

/// Take `ipip` and `gue` off on a backend without a tunnel device
///
/// Attaches a small XDP program until a signal ends it. A packet in a tunnel goes on to this host's own stack without its outer
/// headers, if it comes from a trusted source to an address of this host; its ECN field becomes what RFC 6040 says. Everything else
/// passes as it came: also outer headers with options or extension headers, and outer fragments. From a trusted source, GUE that
/// is not plain data of variant 0, and a tunnel without a whole IP packet in it, is dropped and counted. The UDP checksum around
/// GUE is not verified.
///
/// The VIP must be an address of this host, as for `dsr`. SIGUSR1 logs what was received; SIGTERM and SIGINT do it, too, detach
/// the program and end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb decap --interface eth0 --from 172.16.0.0/16")]
pub struct DecapArguments {
    /// The interface that tunnels come in by
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Whom to trust: a prefix of outer sources; may be given more than once
    ///
    /// Give the `tunnel_sources` of the load balancer. Whoever can send from one of these addresses can send anything to this
    /// host, with any source: let the network's edge drop them.
    #[arg(long = "from", value_name = "PREFIX", default_values = ["172.16.0.0/16", "100::/64"])]
    sources: Vec<Prefix>,
    /// The UDP port of `gue`
    #[arg(long, value_name = "PORT", default_value_t = 6080, value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: u16,
    /// How to attach the program to the interface
    #[arg(long, value_enum, default_value = "auto", value_name = "MODE")]
    xdp_mode: AttachMode,
}

pub fn decap(arguments: DecapArguments) -> anyhow::Result<ExitCode> {
    let DecapArguments { interface, sources, gue_port, xdp_mode } = arguments;
    start_logging()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    runtime.block_on(decap::run(Options { interface, sources, gue_port, xdp_mode }))?;
    Ok(ExitCode::SUCCESS)
}
