//! What came of it, for a person and as JSON.

use std::fmt;

use clb_tests::{Protocol, Status};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::json;

use crate::{
    changes::Change,
    traffic::{End, Flow},
};

/// A change that was made.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub number: usize,
    pub change: Change,
    /// Since the first.
    pub seconds: f64,
}

#[derive(Debug, Default)]
pub struct Report {
    seed: u64,
    events: Vec<Event>,
    pub seconds: f64,
    /// New connections, after changes.
    pub opened: usize,
    tcp: Fate,
    udp: Fate,
    /// What should not have been, each in a sentence.
    broken: Vec<String>,
    most_pins: u64,
    last_pins: u64,
    most_flows: usize,
    seen: usize,
}

/// What became of flows of one protocol.
#[derive(Debug, Default)]
struct Fate {
    kept: usize,
    /// Their backend died.
    excused: usize,
    broken: usize,
}

impl Report {
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub fn is_pass(&self) -> bool {
        self.broken.is_empty()
    }

    pub fn made(&mut self, event: Event) {
        self.events.push(event);
    }

    pub fn reached_a_drained_one(&mut self, listener: usize, backend: usize) {
        let what = format!("a new connection of listener {listener} reached backend {backend}, which takes none");
        self.say(&what);
    }

    pub fn not_opened(&mut self, listener: usize, why: &str) {
        self.say(&format!("a new connection of listener {listener} did not open: {why}"));
    }

    /// Looks at pins, and for flows that have just been broken.
    pub fn look(&mut self, status: &Status, flows: &[Flow]) {
        self.most_pins = self.most_pins.max(status.pins);
        self.last_pins = status.pins;
        let alive = flows.iter().filter(|flow| flow.end.is_none() && !flow.is_excused).count();
        self.most_flows = self.most_flows.max(alive);
        let broken: Vec<_> = flows.iter().enumerate().filter(|(_, flow)| is_broken(flow)).collect();
        let known = std::mem::replace(&mut self.seen, broken.len());
        if broken.len() > known {
            for (number, flow) in broken.iter().take(MOST_TOLD) {
                let Flow { listener, protocol, home, end, exchanges, .. } = flow;
                self.say(&format!(
                    "{protocol} flow {number} of listener {listener}, at home on backend {home:?}, after {exchanges} \
                     exchanges: {end:?}"
                ));
            }
        }
    }

    pub fn finish(&mut self, status: &Status, flows: &[Flow]) {
        self.look(status, flows);
        for flow in flows.iter().filter(|flow| !matches!(flow.end, Some(End::NeverOpened(_)))) {
            let fate = if flow.protocol == Protocol::Tcp { &mut self.tcp } else { &mut self.udp };
            match flow {
                Flow { is_excused: true, .. } => fate.excused += 1,
                Flow { end: Some(_), .. } => fate.broken += 1,
                _ => fate.kept += 1,
            }
        }
    }

    pub fn to_json(&self) -> String {
        let fate =
            |Fate { kept, excused, broken }: &Fate| json!({"kept": kept, "backend_died": excused, "broken": broken});
        let kinds: serde_json::Map<_, _> = self.kinds().map(|(kind, times)| (kind.to_owned(), times.into())).collect();
        let value = json!({
            "pass": self.is_pass(),
            "seed": self.seed,
            "changes": kinds,
            "seconds": self.seconds,
            "tcp": fate(&self.tcp),
            "udp": fate(&self.udp),
            "opened_after_changes": self.opened,
            "most_pins": self.most_pins,
            "pins_when_settled": self.last_pins,
            "most_flows": self.most_flows,
            "broken": self.broken,
        });
        format!("{value:#}")
    }

    fn kinds(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let times = |kind| self.events.iter().filter(|event| event.change.kind() == kind).count();
        Change::KINDS.into_iter().enumerate().map(move |(kind, name)| (name, times(kind)))
    }

    fn say(&mut self, what: &str) {
        let last = self
            .events
            .iter()
            .rev()
            .take(3)
            .map(|Event { number, change, seconds }| format!("change {number} at {seconds:.1} s: {change}"));
        let last: Vec<_> = last.collect();
        self.broken.push(format!("{what}; after {}", last.join(", after ")));
    }
}

fn is_broken(flow: &Flow) -> bool {
    !flow.is_excused && matches!(flow.end, Some(End::Lost(_) | End::Elsewhere(_)))
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut changes = table(["change", "times"]);
        for (kind, times) in self.kinds() {
            changes.add_row([kind.to_owned(), times.to_string()]);
        }
        let mut flows = table(["flows", "kept", "backend died", "broken"]);
        for (name, Fate { kept, excused, broken }) in [("TCP", &self.tcp), ("UDP", &self.udp)] {
            flows.add_row([name.to_owned(), kept.to_string(), excused.to_string(), broken.to_string()]);
        }
        for number in 1..4 {
            for table in [&mut changes, &mut flows] {
                if let Some(column) = table.column_mut(number) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        writeln!(formatter, "{changes}\n\n{flows}\n")?;
        writeln!(
            formatter,
            "{} changes in {:.1} s, seed {}; {} connections opened meanwhile, none on a backend that takes none",
            self.events.len(),
            self.seconds,
            self.seed,
            self.opened
        )?;
        let share = 100.0 * self.most_pins as f64 / self.most_flows.max(1) as f64;
        writeln!(
            formatter,
            "pins: at most {} for {} flows ({share:.1} %), {} when all slots had settled",
            self.most_pins, self.most_flows, self.last_pins
        )?;
        for broken in self.broken.iter().take(MOST_TOLD) {
            writeln!(formatter, "broken: {broken}")?;
        }
        formatter.write_str(if self.is_pass() { "pass" } else { "FAIL" })
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    table
}

const MOST_TOLD: usize = 20;
