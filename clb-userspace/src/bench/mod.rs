//! `clb bench`: what a packet costs in the kernel, measured without a network card.
//!
//! The real program, as built, handles packets of a test run, one behind the other on one CPU, with the real maps. `packet` makes the
//! packets, `wrapper` runs them, `site` loads what is measured, `scenarios` is the list; `figures`, `report` and `plot` are for people, and
//! `live` sends packets over real devices.
//!
//! Machines are noisy, and what disturbs a run only adds. So every scenario has its turn in every round, and only what was measured in
//! one run compares.

mod figures;
pub mod live;
mod machine;
mod packet;
mod plot;
mod report;
mod scenarios;
mod site;
mod wrapper;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::{
    figures::Figures,
    machine::Machine,
    packet::{Packet, Segment},
    plot::{check as check_plot, plot},
    report::{Report, Row},
    scenarios::{Flows, Group, Scenario, Scenarios, Set, counted},
    site::{Facts, Site},
    wrapper::{BATCH, Run, Wrapper},
};

/// Measures every scenario in every round, and tells after each run.
pub fn measure(scenarios: &mut Scenarios, rounds: u32, packets: u32, ran: &dyn Fn()) -> anyhow::Result<Report> {
    let number = scenarios.all().len();
    let mut runs = vec![Vec::new(); number];
    let mut verdicts = vec![0; number];
    for _ in 0..rounds {
        for index in 0..number {
            let run = scenarios.measure_round(index, packets, rounds)?;
            runs[index].push(run.duration.as_secs_f64() * NANOSECONDS);
            verdicts[index] = run.verdict;
            ran();
        }
    }
    scenarios.check()?;
    let figures: Vec<Figures> = runs.into_iter().map(Figures::of).collect();
    let floor = figures[0];
    let measured = scenarios.all().iter().zip(figures).zip(verdicts);
    Ok(Report {
        clb: env!("CARGO_PKG_VERSION").to_owned(),
        unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        rounds,
        packets,
        floor,
        rows: measured
            .skip(1)
            .map(|((scenario, figures), verdict)| Row::new(scenario, floor, figures, verdict))
            .collect(),
        programs: scenarios.facts()?,
        machine: Machine::this(),
    })
}

const NANOSECONDS: f64 = 1e9;
