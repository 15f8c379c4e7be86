//! `cargo xtask ci`: all of CI, the same here and there. The tests come last, so that a log ends with their totals.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::bench::exact;
use crate::machine::Purpose;
use crate::progress::spoken;
use crate::workspace::{Privilege, Workspace, run as run_command};
use crate::{build, demo, lint, plan, setup, test, vm};

pub fn run() -> Result<()> {
    let nothing: &[&str] = &[];
    Privilege::ours().require_root("ci", nothing)?;
    let workspace = Workspace::find()?;
    let mut steps = Steps::default();
    let tools = steps.run("setup", || setup::ready(&workspace, Purpose::Ci))?;
    steps.run("lint", || lint::all(&workspace, &tools))?;
    steps.run("build", || build::all(&workspace, &tools))?;
    steps.run("demo", || run_command("the demo", &mut demo::command(&workspace)))?;
    let mut skipped = steps.run("vm", || vm::check(&workspace))?;
    steps.note(&first_lines(&skipped));
    let not_counted = steps.run("bench --exact", || exact::gate(&workspace))?;
    steps.note(&first_lines(&not_counted));
    skipped.extend(not_counted);
    eprintln!("\nbefore the tests:\n\n{}", steps.table());
    steps.run("test", || test::tests(&workspace, &[]))?;
    for skip in &skipped {
        eprintln!("\n!!! ci: {skip}");
    }
    Ok(())
}

fn first_lines(texts: &[String]) -> String {
    texts.iter().filter_map(|text| text.lines().next()).collect::<Vec<_>>().join("; ")
}

#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration, String)>,
}

impl Steps {
    fn run<Out>(&mut self, name: &'static str, step: impl FnOnce() -> Result<Out>) -> Result<Out> {
        eprintln!("\n######## ci: {name}");
        let started = Instant::now();
        let out = step().with_context(|| format!("ci: {name}"))?;
        let time = started.elapsed();
        self.done.push((name, time, String::new()));
        Ok(out)
    }

    /// Adds to the last step what its time does not tell.
    fn note(&mut self, text: &str) {
        if let Some((.., note)) = self.done.last_mut() {
            text.clone_into(note);
        }
    }

    fn table(&self) -> String {
        let rows: Vec<_> =
            self.done.iter().map(|(name, time, note)| [(*name).to_owned(), spoken(*time), note.clone()]).collect();
        plan::aligned(&rows)
    }
}
