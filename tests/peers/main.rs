//! `clb-peers`: clb beside other load balancers, on one host, with the same clients, servers and load.
//!
//! One contender at a time is there, in turns that go forth and back, so that whatever else the machine does meets all of
//! them. What is measured is the whole site, in which clients and servers take most of the time: so one contender is none,
//! and what a load balancer costs is what the machine does more than then.

#[path = "../hosts/config.rs"]
#[expect(dead_code, reason = "the tests of hosts have more listeners")]
mod config;
#[path = "../hosts/network.rs"]
#[expect(dead_code, reason = "the tests of hosts do more with their network")]
mod network;

mod contender;
mod cpu;
mod load;
mod report;
mod servers;
mod site;

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    contender::Contender,
    cpu::Busy,
    load::{Kind, Load},
    report::Report,
    site::Site,
};

/// Measures clb and other load balancers with the same clients, servers and load, in network namespaces of their own
#[derive(Parser)]
#[command(name = "clb-peers")]
struct Arguments {
    /// How many times each of them has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each kind of load in a turn
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How many clients ask at the same time: enough that every backend has some
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(32..=2_000))]
    clients: u32,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(report) => {
            println!("{}", if arguments.json { report.to_json() } else { report.to_string() });
            if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(&Arguments { rounds, seconds, clients, json: _ }: &Arguments) -> Result<Report> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root\nhelp: `sudo cargo xtask bench --peers`");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("allow more descriptors")?;
    let span = Duration::from_secs(seconds);
    let turns = u64::from(rounds) * Contender::ALL.len() as u64;
    let progress = ProgressBar::new(turns).with_style(style());
    progress.set_message("making the hosts");
    let site = Site::new()?;
    let mut report = Report::new(span, clients)?;
    for round in 0..rounds {
        report.quiet(quiet()?);
        let mut contenders = Contender::ALL;
        if round % 2 == 1 {
            contenders.reverse();
        }
        for contender in contenders {
            let message = format!("round {} of {rounds}: {}", round + 1, contender.name());
            if progress.is_hidden() {
                eprintln!("{message}");
            }
            progress.set_message(message);
            turn(&site, contender, span, clients, &mut report).with_context(|| contender.name())?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(report)
}

/// Puts a contender in its place, sees that it balances, and loads it in both ways.
fn turn(site: &Site, contender: Contender, span: Duration, clients: u32, report: &mut Report) -> Result<()> {
    let mut running = site.start(contender)?;
    site.check(&mut running)?;
    for kind in Kind::ALL {
        let load = Load { target: site::VIP, kind, clients: clients as usize, span };
        report.add(contender, kind, load.run(site)?);
    }
    Ok(())
}

/// How busy the machine is while nothing is measured.
fn quiet() -> Result<Busy> {
    let before = Busy::machine()?;
    thread::sleep(QUIET);
    Ok(Busy::machine()?.since(before))
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

const QUIET: Duration = Duration::from_secs(1);
