//! `cargo xtask bench --exact`: the instructions of each scenario's packet, against those that are stored in the repository.
//!
//! Counts are the same in every run (those of IPVS within a fifth of a percent), so that a growth is one of the code: more than [`MOST_GROWTH`] percent fails, and so does a scenario
//! that only one side has. A change that is meant comes with the changed file, which `--update` writes, in the same commit.
//!
//! Kernels are Debian's newest of a series, so that one day the release is another than the stored one. That is said, and
//! the same bound holds: most of a count is clb's own code. If the kernel's share grew past the bound, the file is written anew.
//! Counts of the kernel alone (the floor, the generator, IPVS) are held to it as well: with them would change what clb is compared to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::build;
use crate::machine::Purpose;
use crate::plan::aligned;
use crate::setup;
use crate::vm::{self, Counted, Counts};
use crate::workspace::{Privilege, Workspace};

pub fn run(what: Stored) -> Result<()> {
    let options = match what {
        Stored::IsCompared => &["--exact"][..],
        Stored::IsWritten => &["--exact", "--update"],
    };
    Privilege::ours().require_root("bench", options)?;
    let workspace = Workspace::find()?;
    let tools = setup::ready(&workspace, Purpose::Lab)?;
    build::all(&workspace, &tools)?;
    let counts = vm::count(&workspace)?;
    match what {
        Stored::IsCompared => judge(&workspace, &counts.kernels)?,
        Stored::IsWritten => {
            vm::unless_skipped(&counts.skipped)?;
            return File::update(&workspace, &counts.kernels);
        }
    }
    vm::unless_skipped(&counts.skipped)
}

/// The same for CI, with what [`build::all`](crate::build::all) made. Returns what was skipped, and why.
pub fn gate(workspace: &Workspace) -> Result<Vec<String>> {
    let Counts { kernels, skipped } = vm::count(workspace)?;
    judge(workspace, &kernels)?;
    Ok(skipped)
}

/// What becomes of the stored counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    IsCompared,
    IsWritten,
}

/// Shows what was counted beside what is stored; fails if that is too much, or not of the same scenarios.
fn judge(workspace: &Workspace, kernels: &[Counted]) -> Result<()> {
    let File(stored) = File::read(workspace)?;
    let mut problems = Vec::new();
    let mut has_shrunk = false;
    for Counted { series, release, counts } in kernels {
        let nothing = BTreeMap::new();
        let kernel = stored.get(*series);
        let rows = compare(kernel.map_or(&nothing, |kernel| &kernel.instructions), counts);
        println!("\nLinux {release}, instructions a packet:\n\n{}", table(&rows).trim_end());
        if let Some(Kernel { release: other, .. }) = kernel.filter(|kernel| kernel.release != *release) {
            eprintln!("\n!!! the stored counts are of Linux {other}, these of {release}; the bound is the same\n");
        }
        problems.extend(rows.iter().filter_map(Row::problem).map(|problem| format!("{problem} (Linux {series})")));
        has_shrunk |= rows.iter().any(|row| row.verdict() == Verdict::Shrank);
    }
    if !problems.is_empty() {
        bail!(
            "{PATH} does not hold any more:\n\n    {}\n\nhelp: if this is meant, write the file anew and commit it with the change:\n\n    {UPDATE}\n",
            problems.join("\n    ")
        );
    }
    if has_shrunk {
        eprintln!("\nhelp: to keep what was gained from getting lost again, commit what this writes: {UPDATE}");
    }
    Ok(())
}

/// The counts in the repository: by the kernel's series, of one release each.
#[derive(Serialize, Deserialize, Default)]
#[serde(transparent)]
struct File(BTreeMap<String, Kernel>);

#[derive(Serialize, Deserialize)]
struct Kernel {
    release: String,
    instructions: BTreeMap<String, u64>,
}

impl File {
    /// Writes what was counted.
    fn update(workspace: &Workspace, counted: &[Counted]) -> Result<()> {
        let kernels = counted.iter().map(|Counted { series, release, counts }| {
            let kernel = Kernel { release: release.clone(), instructions: counts.iter().cloned().collect() };
            ((*series).to_owned(), kernel)
        });
        let text = serde_json::to_string_pretty(&Self(kernels.collect()))? + "\n";
        let path = Self::path(workspace);
        let folder = path.parent().context("it lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        eprintln!("{PATH} is written: `git diff {PATH}` shows what changed");
        Ok(())
    }

    /// What is stored; nothing, as long as there is no file.
    fn read(workspace: &Workspace) -> Result<Self> {
        let path = Self::path(workspace);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not as expected\nhelp: write it anew: {UPDATE}", path.display()))
    }

    fn path(workspace: &Workspace) -> PathBuf {
        workspace.root.join(PATH)
    }
}

/// A scenario, with what it costs on each side that has it.
#[derive(Debug, PartialEq, Eq)]
struct Row<'all> {
    scenario: &'all str,
    stored: Option<u64>,
    now: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Grew,
    Shrank,
    New,
    Missing,
}

impl Row<'_> {
    fn verdict(&self) -> Verdict {
        match (self.stored, self.now) {
            (Some(stored), Some(now)) if now * 100 > stored * (100 + MOST_GROWTH) => Verdict::Grew,
            (Some(stored), Some(now)) if now * 100 < stored * (100 - MOST_GROWTH) => Verdict::Shrank,
            (None, _) => Verdict::New,
            (_, None) => Verdict::Missing,
            _ => Verdict::Good,
        }
    }

    /// Why it cannot stay so.
    fn problem(&self) -> Option<String> {
        let what = match self.verdict() {
            Verdict::Good | Verdict::Shrank => return None,
            Verdict::Grew => format!("grew by {}, more than {MOST_GROWTH} %", self.change().trim_start_matches('+')),
            Verdict::New => "is not stored".to_owned(),
            Verdict::Missing => "is stored, and was not counted".to_owned(),
        };
        Some(format!("{} {what}", self.scenario))
    }

    fn change(&self) -> String {
        match (self.stored, self.now) {
            (Some(stored), Some(now)) if stored == now => "=".to_owned(),
            (Some(stored), Some(now)) => format!("{:+.1} %", (now as f64 / stored as f64 - 1.0) * 100.0),
            _ => String::new(),
        }
    }
}

/// In the order of what was counted; then what was not.
fn compare<'all>(stored: &'all BTreeMap<String, u64>, counts: &'all [(String, u64)]) -> Vec<Row<'all>> {
    let counted: BTreeSet<_> = counts.iter().map(|(scenario, _)| scenario.as_str()).collect();
    let missing = stored.iter().filter(|(scenario, _)| !counted.contains(scenario.as_str()));
    let missing = missing.map(|(scenario, &stored)| Row { scenario, stored: Some(stored), now: None });
    let counts = counts.iter();
    counts
        .map(|(scenario, now)| Row { scenario, stored: stored.get(scenario).copied(), now: Some(*now) })
        .chain(missing)
        .collect()
}

fn table(rows: &[Row]) -> String {
    let count = |count: Option<u64>| format!("{:>6}", count.map(|count| count.to_string()).unwrap_or_default());
    let head = ["scenario", "stored", "   now", " change", ""].map(str::to_owned);
    let rows = rows.iter().map(|row| {
        let verdict = match row.verdict() {
            Verdict::Good => "",
            Verdict::Grew => "GREW",
            Verdict::Shrank => "shrank",
            Verdict::New => "NEW",
            Verdict::Missing => "MISSING",
        };
        [row.scenario.to_owned(), count(row.stored), count(row.now), format!("{:>7}", row.change()), verdict.to_owned()]
    });
    aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// In percent, until the stored count has to change with the code.
const MOST_GROWTH: u64 = 2;
const PATH: &str = "benchmarks/instructions.json";
const UPDATE: &str = "cargo xtask bench --exact --update";

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(stored: &[(&str, u64)], now: &[(&str, u64)]) -> Vec<(Verdict, String)> {
        let stored = stored.iter().map(|&(scenario, count)| (scenario.to_owned(), count)).collect();
        let now: Vec<_> = now.iter().map(|&(scenario, count)| (scenario.to_owned(), count)).collect();
        compare(&stored, &now).iter().map(|row| (row.verdict(), row.problem().unwrap_or_default())).collect()
    }

    #[test]
    fn a_scenario_may_grow_by_two_percent() {
        for (name, now, verdict, problem) in [
            ("as it was", 1_000, Verdict::Good, ""),
            ("grows by 1.9 %", 1_019, Verdict::Good, ""),
            ("grows by 2 %", 1_020, Verdict::Good, ""),
            ("grows by 2.1 %", 1_021, Verdict::Grew, "dsr grew by 2.1 %, more than 2 %"),
            ("shrinks a little", 990, Verdict::Good, ""),
            ("shrinks", 900, Verdict::Shrank, ""),
        ] {
            assert_eq!(rows(&[("dsr", 1_000)], &[("dsr", now)]), [(verdict, problem.to_owned())], "{name}");
        }
    }

    #[test]
    fn a_scenario_that_one_side_lacks_is_a_problem() {
        let (stored, now) = ([("dsr", 552), ("gue", 765)], [("nat", 660), ("dsr", 552)]);
        let expected = [
            (Verdict::New, "nat is not stored"),
            (Verdict::Good, ""),
            (Verdict::Missing, "gue is stored, and was not counted"),
        ];
        assert_eq!(rows(&stored, &now), expected.map(|(verdict, problem)| (verdict, problem.to_owned())));
    }
}
