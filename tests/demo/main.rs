//! `clb-demo`: real traffic through clb, in a lab that it makes and removes.
//!
//! It builds the cloud that a configuration file describes, runs the agent in it as a user would, opens thousands of real
//! connections to every listener, and holds what came back against the weights. Progress goes to stderr, the result to
//! stdout. Exit status: 0 all is as it must be, 1 it is not, 2 the demo could not run.

mod chance;
mod cloud;
mod report;
mod topology;
mod traffic;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail, ensure};
use clap::Parser;
use clb_tests::{Agent, Status};

use crate::{cloud::Cloud, report::Report, topology::Network};

/// Sends real traffic through clb, in network namespaces of its own
#[derive(Parser)]
#[command(name = "clb-demo")]
struct Arguments {
    /// Leave the lab up until Ctrl-C, and print how to enter it
    #[arg(long)]
    keep: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// TCP connections, or UDP flows, to each listener
    #[arg(long, value_name = "N", default_value_t = 5_000,
          value_parser = clap::value_parser!(u32).range(100..=i64::from(topology::MOST_FLOWS)))]
    connections: u32,
    /// What to build and to load [default: config/demo.yaml of the repository]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(report) if report.is_pass() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    require_root()?;
    let config = arguments.config.clone().unwrap_or_else(|| clb_tests::repository().join("config/demo.yaml"));
    let cloud = Cloud::read(&config)?;

    stage(1, "Make hosts in network namespaces");
    let network = Network::make(&cloud)?;
    eprint!("\n{}", topology::picture(&cloud));

    stage(2, "Start servers on the CVMs");
    let _servers = network.serve(&cloud)?;
    eprintln!("  {} sockets on {} CVMs", cloud.backends().count(), cloud.cvms.len());

    stage(3, "Start clb on the load balancer, with the XDP program in the driver of eth0");
    let mut agent = Agent::start(network.lab(), network.load_balancer(), &config, &["--xdp-mode", "native"])?;
    let tested = test(&cloud, &network, &mut agent, arguments.connections);
    let report = match tested {
        Ok(report) => report,
        Err(error) => {
            explain(&agent);
            return Err(error);
        }
    };

    if !report.is_pass() {
        explain(&agent);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        eprintln!("{}", report.conclusion());
    } else {
        println!("{report}");
        println!("{}", report.conclusion());
    }
    if arguments.keep {
        eprint!("{}", network.how_to_enter(&cloud, &agent));
        clb_tests::wait_for_interrupt();
        eprintln!("\nremoving the lab");
    }
    Ok(report)
}

fn test(cloud: &Cloud, network: &Network, agent: &mut Agent, connections: u32) -> Result<Report> {
    let status = agent.wait_until_ready()?;
    ensure_native(&status)?;
    network.reach_load_balancer_itself()?;
    eprintln!("  attached; all next hops are known, and the host's own connections still work");

    stage(4, &format!("Send {connections} connections or flows to each of {} listeners", cloud.listeners.len()));
    let outcomes = traffic::send(cloud, network, connections)?;

    stage(5, "Hold the answers against the weights, and against what the XDP program counted");
    Ok(Report::new(cloud, &outcomes, &agent.status()?))
}

fn ensure_native(status: &Status) -> Result<()> {
    for interface in &status.interfaces {
        ensure!(interface.mode == "native", "clb is attached to {} in {} mode", interface.name, interface.mode);
    }
    Ok(())
}

/// What a person needs to find out why something failed.
fn explain(agent: &Agent) {
    eprintln!("\n--- the end of clb's log");
    eprintln!("{}", agent.log_tail(30));
    eprintln!("--- clb status");
    match agent.status_command().output() {
        Ok(output) => eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("could not be asked: {error}"),
    }
    eprintln!("---");
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let kept =
        ["CLB_BINARY", "CLB_EBPF_DIR"].into_iter().filter_map(|name| Some(format!("{name}={}", env::var(name).ok()?)));
    let words: Vec<String> = ["sudo".to_owned()].into_iter().chain(kept).chain(env::args()).collect();
    bail!("the demo makes network namespaces and attaches XDP programs: only root may\nhelp: {}", words.join(" "));
}

fn stage(number: u32, what: &str) {
    eprintln!("\n[{number}/5] {what}");
}

/// A path as short as the reader's folder lets it be.
fn short(path: &Path) -> &Path {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path)
}
