//! `clb bench`: what a packet costs on this machine.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use aya::programs::{ProgramFd, ProgramInfo};
use clb_common::Protocol;
use indicatif::{ProgressBar, ProgressStyle};

use super::{print, tell};
use crate::{
    bench::{self, Report, Scenarios, Set},
    control,
    dataplane::ListenerId,
};

/// Measure what a packet costs on this machine, without a network card
///
/// Runs the real program on packets of its own, in the kernel, one behind the other on one CPU: every forwarding mode, with up to
/// a million flows, thousands of listeners, new flows, packets for nobody, and what each stage adds. Nothing is sent, and what
/// runs on this host is not touched, but for the CPU time. Figures are nanoseconds a packet, with what the test itself takes
/// subtracted; each is measured in every round, and says so if its runs lie too far apart.
///
/// Compare only what was measured in one run, or with `--compare` on the same machine.
///
/// Exit status: 0 measured, 2 the command could not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb bench --quick --plot bench.svg")]
pub struct BenchArguments {
    /// Measure only scenarios whose names, as the table shows them, hold this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    scenario: String,
    /// How many times each scenario has its turn
    #[arg(long, value_name = "NUMBER", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Packets in a turn
    #[arg(long, value_name = "NUMBER", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    packets: u32,
    /// A fifth of the packets, in three rounds: a first look
    #[arg(long, conflicts_with_all = ["rounds", "packets"])]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show the ratio to an earlier result, which `--json` printed
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Draw ns a packet over flows, and the ladder of stages
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Send packets over devices of a network namespace made for it, and count those that arrive each second
    #[arg(long, conflicts_with_all = ["scenario", "rounds", "packets", "compare", "plot", "program"])]
    live: bool,
    /// Measure another XDP program, which is pinned here, with the same packets
    #[arg(long, value_name = "PINNED", requires = "to")]
    program: Option<PathBuf>,
    /// The listener of that program to send packets to
    #[arg(long, value_name = "ADDRESS:PORT", requires = "program")]
    to: Option<SocketAddr>,
    /// The protocol of that listener
    #[arg(long, value_parser = ["tcp", "udp"], value_name = "PROTOCOL", default_value = "tcp", requires = "program")]
    protocol: String,
}

pub fn bench(arguments: BenchArguments) -> anyhow::Result<ExitCode> {
    control::check_privileges()?;
    let BenchArguments { scenario: wanted, rounds, packets, quick, live, json, compare, plot, program, to, protocol } =
        arguments;
    if live {
        return measure_live(if quick { Duration::from_millis(300) } else { Duration::from_secs(2) }, json);
    }
    let (rounds, packets) = if quick { (3, 100_000) } else { (rounds, packets) };
    // Before it has taken minutes.
    plot.as_deref().map(bench::check_plot).transpose()?;
    let before = compare.as_deref().map(read_report).transpose()?;
    let mut scenarios = match (&program, to) {
        (Some(pinned), Some(to)) => {
            let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
            let listener = ListenerId { vip: to.ip(), protocol, port: to.port() };
            Scenarios::of_program(&open(pinned)?, listener, &wanted)?
        }
        _ => load(&wanted)?,
    };
    if scenarios.all().len() == 1 {
        return Err(anyhow!("no scenario's name holds {wanted:?}\nhelp: `clb bench --quick` shows the names"));
    }
    let progress = bar(scenarios.all().len() as u64 * u64::from(rounds));
    let report = bench::measure(&mut scenarios, rounds, packets, &|| progress.inc(1))?;
    progress.finish_and_clear();
    if let Some(file) = plot {
        bench::plot(&report, &file)?;
        tell(&format!("{} is drawn\n", file.display()));
    }
    let text =
        if json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { report.render(before.as_ref()) };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn measure_live(each: Duration, json: bool) -> anyhow::Result<ExitCode> {
    let progress = spinner()?;
    let live = bench::live::measure(each, |what| progress.set_message(format!("sends: {what}")));
    progress.finish_and_clear();
    let live = live?;
    print(&if json { format!("{}\n", serde_json::to_string_pretty(&live)?) } else { live.render() })?;
    Ok(ExitCode::SUCCESS)
}

fn load(wanted: &str) -> anyhow::Result<Scenarios> {
    let progress = spinner()?;
    let loaded =
        Scenarios::load(Set::Full, wanted, &|what| progress.set_message(format!("loads the program for {what}")));
    progress.finish_and_clear();
    loaded
}

fn spinner() -> anyhow::Result<ProgressBar> {
    let progress = ProgressBar::new_spinner().with_style(style("{spinner} {msg}")?);
    progress.enable_steady_tick(Duration::from_millis(100));
    Ok(progress)
}

fn bar(length: u64) -> ProgressBar {
    let style =
        style("measures {wide_bar} {pos} of {len} runs, {eta} left").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

fn style(template: &str) -> anyhow::Result<ProgressStyle> {
    ProgressStyle::with_template(template).context("show progress")
}

/// A program that somebody pinned.
fn open(pinned: &Path) -> anyhow::Result<ProgramFd> {
    let name = pinned.display();
    let info = ProgramInfo::from_pin(pinned).map_err(|error| {
        anyhow!(error).context(format!(
            "cannot open the program pinned at {name}\n\
             help: `--program` wants a path in a BPF file system: `bpftool prog pin id ID {name}` makes one"
        ))
    })?;
    let is_xdp = info.program_type() as u32 == XDP;
    anyhow::ensure!(
        is_xdp,
        "the program pinned at {name} is no XDP program\nhelp: `bpftool prog list` shows which are"
    );
    info.fd().context("open the program")
}

fn read_report(file: &Path) -> anyhow::Result<Report> {
    let help = "help: `--compare` wants what `clb bench --json` printed";
    let text = fs::read_to_string(file).map_err(|error| anyhow!("cannot read {}: {error}\n{help}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| anyhow!("{} is not a result of clb: {error}\n{help}", file.display()))
}

/// The kernel's number for programs of this type (`BPF_PROG_TYPE_XDP`).
const XDP: u32 = 6;
