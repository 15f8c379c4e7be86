//! What a packet costs: the real program through `BPF_PROG_TEST_RUN`, beside the two programs that do almost nothing.
//!
//! All scenarios are interleaved in rounds, since machines are noisy and only figures of one run compare. The floor is
//! subtracted. `cargo xtask bench --exact` counts instructions instead, in the same scenarios.

mod scenarios;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use indicatif::ProgressBar;

use crate::scenarios::Scenarios;

fn main() -> Result<()> {
    let mut scenarios = Scenarios::load()?;
    println!("program {}", scenarios.describe_programs()?);
    let names = scenarios.names();
    let mut measured = vec![[const { Vec::new() }; FLOWS.len()]; names.len()];
    let progress = ProgressBar::new((ROUNDS * names.len() * FLOWS.len()) as u64);
    for _ in 0..ROUNDS {
        for (scenario, measured) in measured.iter_mut().enumerate() {
            for (flows, measured) in FLOWS.iter().zip(measured) {
                measured.push(scenarios.measure(scenario, *flows, REPEAT)?.as_secs_f64() * 1e9);
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    print(&names, &mut measured);
    Ok(())
}

fn print(names: &[String], measured: &mut [[Vec<f64>; FLOWS.len()]]) {
    let minimum = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let floor: Vec<(f64, f64)> = measured[0].iter_mut().map(|values| (minimum(values), median(values))).collect();
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header = vec!["ns per packet, floor subtracted".to_owned()];
    for flows in FLOWS {
        header.extend([format!("{flows} flows: minimum"), "median".to_owned()]);
    }
    table.set_header(header);
    for (name, measured) in names.iter().zip(measured) {
        let mut row = vec![name.clone()];
        for (values, (floor_minimum, floor_median)) in measured.iter_mut().zip(&floor) {
            row.push(format!("{:.0}", minimum(values) - floor_minimum));
            row.push(format!("{:.0}", median(values) - floor_median));
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    for (flows, (minimum, median)) in FLOWS.iter().zip(&floor) {
        println!("floor at {flows} flows (restore and XDP_PASS): minimum {minimum:.0}, median {median:.0}");
    }
    println!("{ROUNDS} interleaved rounds of {REPEAT} packets each");
}

/// One flow, and as many as there are in a busy minute.
const FLOWS: [u32; 2] = [1, 1 << 20];
const ROUNDS: usize = 9;
const REPEAT: u32 = 1_000_000;
