//! How many instructions a packet costs, exactly: the host lets the guest's clock advance by one nanosecond an instruction.
//!
//! What the kernel calls time per packet is then a count that is the same in every run, on every machine, for one kernel and
//! one program. A run in which the guest's timer came in between counts that, too: so the least of some runs is taken.

use anyhow::{Context as _, Result, ensure};

use crate::{report::Report, scenarios::Scenarios};

/// Reports the count of each scenario, the floor subtracted, and that of the floor.
pub fn count(report: &mut Report) {
    let mut loaded = None;
    report.check("loads the programs", || {
        let scenarios = loaded.insert(Scenarios::load()?);
        scenarios.describe_programs()
    });
    let Some(mut scenarios) = loaded else { return };
    let mut floor = 0;
    for (scenario, name) in scenarios.names().into_iter().enumerate() {
        report.check(&name, || {
            let count = least(&mut scenarios, scenario)?;
            if scenario == 0 {
                floor = count;
                return Ok(format!("{count} instructions, the floor: subtracted from what follows"));
            }
            let more = count.checked_sub(floor).context("no scenario costs less than the floor")?;
            Ok(format!("{more:>4} instructions"))
        });
    }
}

/// The least of some runs, which at least two of them must have had.
fn least(scenarios: &mut Scenarios, scenario: usize) -> Result<u128> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(scenarios.measure(scenario, 1, REPEAT)?.as_nanos());
    }
    runs.sort_unstable();
    ensure!(runs[0] == runs[1], "the counts differ from run to run: {runs:?}");
    Ok(runs[0])
}

const RUNS: usize = 9;
/// Few enough to be over before the timer's next tick, mostly.
const REPEAT: u32 = 1_000;
