//! `cargo xtask bench`: what a packet costs, and how clb compares to other load balancers.

pub mod exact;
mod peers;

use std::ffi::OsString;

use anyhow::Result;
use clap::ArgGroup;

use exact::Stored;

#[derive(clap::Args)]
#[command(group(ArgGroup::new("what").required(true).args(["exact", "peers"])))]
pub struct Arguments {
    /// Count instructions on other kernels, in virtual machines, and compare them to the stored counts
    #[arg(long)]
    exact: bool,
    /// Store the counts instead of comparing them
    #[arg(long, conflicts_with = "peers")]
    update: bool,
    /// Measure clb and other load balancers with the same clients, servers and load, in a lab
    #[arg(long)]
    peers: bool,
    /// Options of --peers: --rounds, --seconds, --clients, --json; `cargo xtask bench --peers -- --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, conflicts_with = "exact")]
    options: Vec<OsString>,
}

pub fn run(Arguments { exact: _, update, peers, options }: &Arguments) -> Result<()> {
    if *peers {
        return peers::run(options);
    }
    exact::run(if *update { Stored::IsWritten } else { Stored::IsCompared })
}
