//! How many instructions a packet costs, exactly: the host lets the guest's clock advance by one nanosecond an instruction.
//!
//! What the kernel calls time per packet is then a count that is the same in every run, on every machine, for one kernel and
//! one program. A run in which the guest's timer came in between counts that, too, and one in which a flow is marked as seen in a new
//! tick counts that. Both only add: so the least that several runs had is taken.

use anyhow::{Context as _, Result};
use clb_userspace::bench::{Scenarios, Set};

use crate::report::Report;

/// Reports the count of each scenario, the floor subtracted, and that of the floor.
pub fn count(report: &mut Report) {
    let mut loaded = None;
    report.check("loads the programs", || {
        let scenarios = loaded.insert(Scenarios::load(Set::OneFlow, "", &|_| {})?);
        Ok(format!("{} scenarios", scenarios.all().len()))
    });
    let Some(mut scenarios) = loaded else { return };
    let names: Vec<String> = scenarios.all().iter().map(|scenario| scenario.name.clone()).collect();
    let mut floor = 0;
    for (index, name) in names.into_iter().enumerate() {
        report.count(&name, || {
            let count = steady(|| Ok(scenarios.measure(index, REPEAT)?.duration.as_nanos()))?;
            if index == 0 {
                floor = count;
                return Ok(count);
            }
            count.checked_sub(floor).context("no scenario costs less than the floor")
        });
    }
    report.check("no packet is dropped", || scenarios.check().map(|()| String::new()));
}

/// The least of some runs that another one had as well.
pub fn steady(mut measure: impl FnMut() -> Result<u128>) -> Result<u64> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(u64::try_from(measure()?)?);
    }
    runs.sort_unstable();
    let same = runs.windows(2).find(|pair| pair[0] == pair[1]);
    same.map(|pair| pair[0]).with_context(|| format!("the counts differ from run to run: {runs:?}"))
}

const RUNS: usize = 9;
/// Few enough to be over before the timer's next tick, mostly.
const REPEAT: u32 = 1_000;
