//! `clb-churn`: connections and UDP flows that stay open while everything changes around them.
//!
//! What it promises: no connection ends whose backend lived all the time, and no new one reaches a backend that takes none.

#[path = "../hosts/config.rs"]
#[expect(dead_code, reason = "the tests of hosts have more listeners")]
mod config;
#[path = "../hosts/network.rs"]
#[expect(dead_code, reason = "the tests of hosts do more with their network")]
mod network;

mod changes;
mod report;
mod site;
mod traffic;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use clb_tests::{Protocol, wait_until};
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    changes::{Change, World},
    report::{Event, Report},
    site::{BACKENDS, Site},
    traffic::{Clients, End},
};

/// Keeps connections and UDP flows open while everything changes around them, in network namespaces of its own
#[derive(Parser)]
#[command(name = "clb-churn")]
struct Arguments {
    /// Where the random numbers begin: the same seed, the same changes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many changes
    #[arg(long, value_name = "N", default_value_t = 200)]
    changes: usize,
    /// How many TCP connections, and as many UDP flows
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Milliseconds from one change to the next, if it takes no longer
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pause: u64,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(report) => {
            println!("{}", if arguments.json { report.to_json() } else { report.to_string() });
            if report.is_pass() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(&Arguments { seed, changes, connections, pause, json: _ }: &Arguments) -> Result<Report> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root\nhelp: `sudo cargo xtask churn`");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("allow more descriptors")?;
    let mut random = Rng::with_seed(seed);
    let mut world = World::new(LISTENERS, BACKENDS);
    let mut site = Site::start(&world)?;
    let clients = Clients::start(&site.network.client);
    let progress = ProgressBar::new(changes as u64).with_style(style());
    progress.set_message("opening connections");
    open(&site, &clients, connections)?;

    let mut report = Report::new(seed);
    let began = Instant::now();
    for number in 0..changes {
        let due = Instant::now() + Duration::from_millis(pause);
        let change = world.change(&mut random);
        progress.set_message(change.to_string());
        if let Change::Death { backend } = change {
            clients.excuse(backend);
        }
        site.make(change, &world).with_context(|| format!("seed {seed}, change {number}: {change}"))?;
        report.made(Event { number, change, seconds: began.elapsed().as_secs_f64() });
        if world.dead.is_none() {
            open_some(&site, &clients, &world, &mut report)?;
        }
        report.look(&site.status()?, &clients.flows());
        progress.inc(1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    report.seconds = began.elapsed().as_secs_f64();
    progress.set_message("waiting for one more answer to each, and for slots to settle");
    wait_for_all(&clients);
    wait_until("no slot is moving", REST, || {
        let status = site.status()?;
        Ok(status.listeners.iter().all(|listener| listener.moving_slots == 0))
    })?;
    // The walk that follows counts the pins that are left.
    thread::sleep(WALK);
    wait_for_all(&clients);
    report.finish(&site.status()?, &clients.flows());
    progress.finish_and_clear();
    if !report.is_pass() {
        eprintln!("{}", site.log());
    }
    Ok(report)
}

/// Half of all are TCP, spread over the listeners.
fn open(site: &Site, clients: &Clients, connections: u32) -> Result<()> {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let listeners = site.listeners.iter().enumerate().filter(|(_, listener)| listener.protocol == protocol);
        let openings: Result<Vec<_>> = listeners
            .cycle()
            .take(connections as usize)
            .map(|(number, listener)| clients.open(number, listener.vip, protocol))
            .collect();
        for opening in openings? {
            let flow = clients.wait(opening);
            ensure!(flow.end.is_none(), "a flow could not be opened before any change: {:?}\n{}", flow.end, site.log());
        }
    }
    Ok(())
}

/// New connections after a change: they stay, too, and none is where none may be.
fn open_some(site: &Site, clients: &Clients, world: &World, report: &mut Report) -> Result<()> {
    let listeners = site.listeners.iter().enumerate().filter(|(_, listener)| listener.protocol == Protocol::Tcp);
    let openings: Result<Vec<_>> = listeners
        .flat_map(|listener| std::iter::repeat_n(listener, NEW_CONNECTIONS))
        .map(|(number, listener)| clients.open(number, listener.vip, Protocol::Tcp))
        .collect();
    for opening in openings? {
        let flow = clients.wait(opening);
        match (flow.home, flow.end) {
            (Some(home), _) if !world.takes_new(flow.listener, home) => {
                report.reached_a_drained_one(flow.listener, home);
            }
            (_, Some(End::NeverOpened(why))) => report.not_opened(flow.listener, &why),
            _ => report.opened += 1,
        }
    }
    Ok(())
}

/// Every flow that goes on has answered once more, or will not any more.
fn wait_for_all(clients: &Clients) {
    let before: Vec<u64> = clients.flows().iter().map(|flow| flow.exchanges).collect();
    let deadline = Instant::now() + LAST_ANSWERS;
    let is_waited_for = || {
        let flows = clients.flows();
        let mut both = flows.iter().zip(&before);
        both.any(|(flow, before)| flow.end.is_none() && !flow.is_excused && flow.exchanges <= *before)
    };
    while is_waited_for() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    let mut flows = clients.flows();
    for (flow, before) in flows.iter_mut().zip(before) {
        if flow.end.is_none() && !flow.is_excused && flow.exchanges <= before {
            flow.end = Some(End::Lost("no answer at the end".to_owned()));
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

const LISTENERS: usize = 5;
const NEW_CONNECTIONS: usize = 2;
/// Longer than the listeners' `drain`.
const REST: Duration = Duration::from_secs(30);
const WALK: Duration = Duration::from_secs(5);
const LAST_ANSWERS: Duration = Duration::from_secs(30);
