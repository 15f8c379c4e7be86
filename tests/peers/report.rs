//! What came of it, for a person and as JSON.

use std::{collections::BTreeMap, fmt, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use nix::sys::utsname::uname;
use serde_json::json;

use crate::{
    contender::Contender,
    cpu::Busy,
    load::{Kind, Outcome},
};

pub struct Report {
    span: Duration,
    clients: u32,
    kernel: String,
    versions: Vec<String>,
    /// The machine before each round.
    quiet: Vec<Busy>,
    samples: BTreeMap<(Contender, Kind), Vec<Sample>>,
    failures: BTreeMap<(Contender, Kind, String), u64>,
}

/// A turn's figures.
#[derive(Clone, Copy, Debug)]
struct Sample {
    per_second: f64,
    /// Microseconds of the whole machine for each of them, less what it was busy with before the round.
    machine: f64,
    /// Those of the load balancer's processes.
    processes: f64,
}

/// Figures of all rounds.
struct Figures<'samples> {
    samples: &'samples [Sample],
    /// Those without a load balancer.
    direct: &'samples [Sample],
    failures: BTreeMap<&'samples str, u64>,
}

impl Report {
    pub fn new(span: Duration, clients: u32) -> Result<Self> {
        let kernel = uname().context("ask for the kernel's release")?.release().to_string_lossy().into_owned();
        let versions = Contender::ALL.into_iter().filter_map(Contender::version).map(version).collect::<Result<_>>()?;
        Ok(Self { span, clients, kernel, versions, quiet: vec![], samples: BTreeMap::new(), failures: BTreeMap::new() })
    }

    /// A round begins, on a machine that is so busy with other things.
    pub fn quiet(&mut self, quiet: Busy) {
        self.quiet.push(quiet);
    }

    pub fn add(&mut self, contender: Contender, kind: Kind, Outcome { tally, machine, processes }: Outcome) {
        let done = tally.done() as f64;
        let quiet = self.quiet.last().copied().unwrap_or_default();
        let sample = Sample {
            per_second: done / self.span.as_secs_f64(),
            machine: machine.seconds_beyond(quiet) / done * MICROSECONDS,
            processes: processes.as_secs_f64() / done * MICROSECONDS,
        };
        self.samples.entry((contender, kind)).or_default().push(sample);
        for (reason, times) in tally.failures {
            *self.failures.entry((contender, kind, reason)).or_default() += times;
        }
    }

    /// Whether nothing failed.
    pub fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    pub fn to_json(&self) -> String {
        let contenders = Contender::ALL.map(|contender| {
            let [connections, requests] = Kind::ALL.map(|kind| self.figures(contender, kind).to_json());
            json!({"name": contender.name(), "connections": connections, "requests": requests})
        });
        let value = json!({
            "kernel": self.kernel,
            "cpus": cpus(),
            "versions": self.versions,
            "rounds": self.quiet.len(),
            "seconds": self.span.as_secs_f64(),
            "clients": self.clients,
            "busy_before_rounds": self.quiet_shares(),
            "contenders": contenders,
        });
        format!("{value:#}")
    }

    /// How busy the machine was before each round.
    fn quiet_shares(&self) -> Vec<f64> {
        self.quiet.iter().map(|quiet| quiet.share()).collect()
    }

    fn busiest(&self) -> f64 {
        self.quiet_shares().into_iter().fold(0.0, f64::max)
    }

    fn figures(&self, contender: Contender, kind: Kind) -> Figures<'_> {
        let of = |contender| self.samples.get(&(contender, kind)).map_or(&[][..], Vec::as_slice);
        let failures = self.failures.iter().filter(|((failed, how, _), _)| (*failed, *how) == (contender, kind));
        let failures = failures.map(|((_, _, reason), times)| (reason.as_str(), *times)).collect();
        Figures { samples: of(contender), direct: of(Contender::Direct), failures }
    }

    fn table(&self, kind: Kind) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header([
            kind.name(),
            "a second",
            "spread",
            "CPU µs each",
            "more than without",
            "own processes",
            "failed",
        ]);
        for contender in Contender::ALL {
            let name = [contender.name().to_owned()];
            table.add_row(name.into_iter().chain(self.figures(contender, kind).cells()));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Figures<'_> {
    fn per_second(&self) -> Vec<f64> {
        all(self.samples, |sample| sample.per_second)
    }

    /// What the machine spends more than without a load balancer.
    fn added(&self) -> f64 {
        let [with, without] = [self.samples, self.direct].map(|samples| median(&all(samples, |sample| sample.machine)));
        with - without
    }

    fn to_json(&self) -> serde_json::Value {
        let machine = all(self.samples, |sample| sample.machine);
        let processes = all(self.samples, |sample| sample.processes);
        json!({
            "per_second": median(&self.per_second()),
            "spread": spread(&self.per_second()),
            "machine_us": median(&machine),
            "added_us": self.added(),
            "process_us": median(&processes),
            "failures": self.failures,
            "rounds": {"per_second": self.per_second(), "machine_us": machine, "process_us": processes},
        })
    }

    fn cells(&self) -> [String; 6] {
        let (rate, machine) = (self.per_second(), all(self.samples, |sample| sample.machine));
        let processes = median(&all(self.samples, |sample| sample.processes));
        [
            thousands(median(&rate)),
            if rate.len() > 1 { format!("{:.0} %", 100.0 * spread(&rate)) } else { String::new() },
            format!("{:.1}", median(&machine)),
            format!("{:+.1}", self.added()),
            format!("{processes:.1}"),
            self.failures.values().sum::<u64>().to_string(),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            writeln!(formatter, "{}\n", self.table(kind))?;
        }
        writeln!(
            formatter,
            "medians of {} rounds of {} s each, {} clients, {} CPUs, Linux {}; {}",
            self.quiet.len(),
            self.span.as_secs(),
            self.clients,
            cpus(),
            self.kernel,
            self.versions.join(", "),
        )?;
        write!(
            formatter,
            "spread: largest less smallest, of the median; CPU: of the whole machine, with clients and servers, less what\n\
             it was busy with before a round, which was {:.0} % (at most {:.0} %); own processes: the load balancer's part",
            100.0 * median(&self.quiet_shares()),
            100.0 * self.busiest()
        )?;
        if self.busiest() > MOST_QUIET {
            formatter.write_str(
                "\n!!! the machine did much else: do not rely on this\nhelp: run it again while nothing else runs",
            )?;
        }
        for ((contender, kind, reason), times) in &self.failures {
            write!(formatter, "\nfailed: {}, {}: {reason}, {times} times", contender.name(), kind.name())?;
        }
        Ok(())
    }
}

fn all(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().map(of).collect()
}

/// A program and its version, as it says itself.
fn version([program, option]: [&str; 2]) -> Result<String> {
    let help = "help: `cargo xtask bench --peers` installs it";
    let output = Command::new(program).arg(option).output().with_context(|| format!("start {program}\n{help}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(format!("{program} {}", version_in(&said).unwrap_or("of an unknown version")))
}

/// The first word with a digit, from that on.
fn version_in(said: &str) -> Option<&str> {
    said.split_ascii_whitespace().find_map(|word| Some(&word[word.find(|letter: char| letter.is_ascii_digit())?..]))
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length => f64::midpoint(values[(length - 1) / 2], values[length / 2]),
    }
}

/// From the smallest to the largest, as a part of the median.
fn spread(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::MIN, f64::max);
    let smallest = values.iter().copied().fold(f64::MAX, f64::min);
    (largest - smallest) / median(values)
}

/// `12,345`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

const MICROSECONDS: f64 = 1e6;
/// How much else a machine may do that figures are taken on.
const MOST_QUIET: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_spread_are_of_sorted_values() {
        assert!((median(&[9.0, 1.0, 4.0]) - 4.0).abs() < 1e-9);
        assert!((median(&[9.0, 1.0, 4.0, 5.0]) - 4.5).abs() < 1e-9);
        assert!((spread(&[9.0, 1.0, 4.0]) - 2.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_version_is_found_in_what_a_program_says() {
        for (said, version) in [
            ("nftables v1.0.6 (Lester Gooch #5)", Some("1.0.6")),
            ("HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/\nStatus: long-term", Some("2.6.12-1")),
            ("nginx version: nginx/1.22.1", Some("1.22.1")),
            ("usage: nft", None),
        ] {
            assert_eq!(version_in(said), version, "{said}");
        }
    }

    #[test]
    fn large_numbers_have_their_digits_in_groups() {
        for (value, shown) in [(7.4, "7"), (999.6, "1,000"), (12_345.0, "12,345"), (1_234_567.0, "1,234,567")] {
            assert_eq!(thousands(value), shown);
        }
    }
}
