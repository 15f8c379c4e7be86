//! `cargo xtask ci`: all of CI, the same here and there. The tests come last, so that a log ends with their totals.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::machine::Purpose;
use crate::progress::spoken;
use crate::workspace::{Privilege, Workspace, run as run_command};
use crate::{build, demo, lint, plan, setup, test};

pub fn run() -> Result<()> {
    let nothing: &[&str] = &[];
    Privilege::ours().require_root("ci", nothing)?;
    let workspace = Workspace::find()?;
    let mut steps = Steps::default();
    let tools = steps.run("setup", || setup::ready(&workspace, Purpose::Ci))?;
    steps.run("lint", || lint::all(&workspace, &tools))?;
    steps.run("build", || build::all(&workspace, &tools))?;
    steps.run("demo", || run_command("the demo", &mut demo::command(&workspace)))?;
    eprintln!("\nbefore the tests:\n\n{}", steps.table());
    steps.run("test", || test::tests(&workspace, &[]))
}

#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn run<Out>(&mut self, name: &'static str, step: impl FnOnce() -> Result<Out>) -> Result<Out> {
        eprintln!("\n######## ci: {name}");
        let started = Instant::now();
        let out = step().with_context(|| format!("ci: {name}"))?;
        let time = started.elapsed();
        self.done.push((name, time));
        Ok(out)
    }

    fn table(&self) -> String {
        let rows: Vec<_> = self.done.iter().map(|(name, time)| [(*name).to_owned(), spoken(*time)]).collect();
        plan::aligned(&rows)
    }
}
