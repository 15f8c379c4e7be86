//! What was measured, for a person and for a program; and beside what was measured before.

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::{Deserialize, Serialize};

use super::{
    figures::Figures,
    machine::Machine,
    scenarios::{Flows, Group, Scenario, counted, name_of},
    site::Facts,
};

/// Everything that one run of the benchmark came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of clb.
    pub clb: String,
    /// When.
    pub unix_time: u64,
    /// Where.
    pub machine: Machine,
    /// The programs that were measured.
    pub programs: Vec<Facts>,
    /// How many times every scenario had its turn.
    pub rounds: u32,
    /// Packets in a turn.
    pub packets: u32,
    /// The wrapper with a program that only passes; subtracted from the others.
    pub floor: Figures,
    /// One for each scenario.
    pub rows: Vec<Row>,
}

/// What a scenario came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is about.
    pub group: Group,
    /// What it is.
    pub scenario: String,
    /// How many flows there are, or nothing if every packet is of a new one.
    pub flows: Option<u32>,
    /// Nanoseconds a packet, at least.
    pub minimum: f64,
    /// The median.
    pub median: f64,
    /// The same with the floor, and how far the runs lie apart.
    pub with_floor: Figures,
    /// What became of the packets.
    pub verdict: String,
}

impl Row {
    /// With the floor subtracted.
    pub fn new(scenario: &Scenario, floor: Figures, figures: Figures, verdict: u32) -> Self {
        Self {
            group: scenario.group,
            scenario: scenario.name.clone(),
            flows: match scenario.flows {
                Flows::Number(flows) => Some(flows),
                Flows::AllNew => None,
            },
            minimum: figures.minimum - floor.minimum,
            median: figures.median - floor.median,
            with_floor: figures,
            verdict: name_of(verdict).to_owned(),
        }
    }

    fn is_same_scenario(&self, other: &Self) -> bool {
        (self.group, &self.scenario, self.flows) == (other.group, &other.scenario, other.flows)
    }

    /// How much it is now for each nanosecond that it was. What is next to nothing compares to nothing.
    fn ratio(&self, before: &Self) -> Option<f64> {
        (before.minimum >= LEAST_TO_COMPARE).then(|| self.minimum / before.minimum)
    }
}

impl Report {
    /// For a person, beside an earlier one.
    pub fn render(&self, before: Option<&Self>) -> String {
        let mut sections = vec![self.describe()];
        if let Some(before) = before {
            sections.extend(self.comparability(before));
        }
        let ladder: Vec<&Row> = self.rows.iter().filter(|row| row.group == Group::Ladder).collect();
        if !ladder.is_empty() {
            sections.push(self.ladder(&ladder));
        }
        if self.rows.iter().any(|row| row.group != Group::Ladder) {
            sections.push(self.table(before));
        }
        let noisy = self.rows.iter().filter(|row| row.with_floor.is_noisy()).count();
        if noisy > 0 {
            sections.push(format!(
                "{} too noisy to trust: run it again when the machine is idle, or with more --rounds\n",
                counted(noisy as u32, "figure")
            ));
        }
        sections.join("\n")
    }

    fn describe(&self) -> String {
        let Machine { host, kernel, cpu, .. } = &self.machine;
        let Figures { minimum, median, spread } = self.floor;
        let mut lines = format!(
            "clb {} on {host}, Linux {kernel}, {cpu}\n\
             {} of {} each, in turns; nanoseconds a packet\n\
             floor, subtracted below: minimum {minimum:.0}, median {median:.0}, spread {:.0} %\n",
            self.clb,
            counted(self.rounds, "round"),
            counted(self.packets, "packet"),
            spread * 100.0
        );
        if !self.programs.is_empty() {
            let mut table = plain_table(&["program for", "verified", "instructions", "machine code"]);
            for Facts { name, verified, instructions, machine_code } in &self.programs {
                let numbers = [*verified, *instructions, *machine_code].map(|number| counted(number, ""));
                table.add_row(std::iter::once(name.clone()).chain(numbers.map(|number| bare(&number))));
            }
            lines += &format!("\n{}\n", align(table));
        }
        lines
    }

    /// Why an earlier report does not compare.
    fn comparability(&self, before: &Self) -> Option<String> {
        let mut differences = self.machine.differences(&before.machine);
        if self.clb != before.clb {
            differences.push(format!("clb is {}, and was {}", self.clb, before.clb));
        }
        let lines = differences.iter().fold(String::new(), |lines, line| lines + &format!("note: {line}\n"));
        (!lines.is_empty()).then_some(lines)
    }

    fn ladder(&self, rows: &[&Row]) -> String {
        let mut table = plain_table(&["what a stage adds, dsr, tcp, IPv4", "so far", "adds", "spread"]);
        let mut last = 0.0;
        table.add_row(vec!["pass".to_owned(), "0".to_owned(), String::new(), spread(self.floor)]);
        for row in rows {
            let adds = row.minimum - last;
            last = row.minimum;
            let cells = [format!("{:.0}", row.minimum), format!("{adds:+.0}"), spread(row.with_floor)];
            table.add_row(std::iter::once(row.scenario.clone()).chain(cells));
        }
        format!("{}\n", align(table))
    }

    fn table(&self, before: Option<&Self>) -> String {
        let mut head = vec!["scenario", "flows", "minimum", "median", "spread"];
        if before.is_some() {
            head.extend(["before", "ratio"]);
        }
        let shows_verdicts = self.rows.iter().any(|row| row.group == Group::Other);
        if shows_verdicts {
            head.push("verdict");
        }
        let mut table = plain_table(&head);
        let mut group = None;
        for row in self.rows.iter().filter(|row| row.group != Group::Ladder) {
            if group.replace(row.group).is_some_and(|last| last != row.group) {
                table.add_row(vec![String::new(); head.len()]);
            }
            let flows = row.flows.map_or_else(|| "all new".to_owned(), |flows| bare(&counted(flows, "")));
            let mut cells = vec![row.scenario.clone(), flows];
            cells.extend([row.minimum, row.median].map(|figure| format!("{figure:.0}")));
            cells.push(spread(row.with_floor));
            if let Some(before) = before {
                let old = before.rows.iter().find(|old| old.is_same_scenario(row));
                cells.push(old.map(|old| format!("{:.0}", old.minimum)).unwrap_or_default());
                let ratio = old.and_then(|old| row.ratio(old));
                cells.push(ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default());
            }
            if shows_verdicts {
                cells.push(row.verdict.clone());
            }
            table.add_row(cells);
        }
        format!("{}\n", align(table))
    }
}

fn spread(figures: Figures) -> String {
    let percent = format!("{:.0} %", figures.spread * 100.0);
    if figures.is_noisy() { format!("NOISY {percent}") } else { percent }
}

/// A number without the word behind it.
fn bare(counted: &str) -> String {
    counted.trim_end_matches(['s', ' ']).to_owned()
}

fn plain_table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    table
}

/// Words to the left, numbers to the right.
fn align(mut table: Table) -> String {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect::<String>().trim_end().to_owned()
}

/// In nanoseconds: less is within what is measured anyhow.
const LEAST_TO_COMPARE: f64 = 2.0;
