//! `clb bench` measures what it says: the real programs, with the verdict that each packet is to have. No figure is asserted.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use clb_common::ForwardingMode;
use clb_tests::{Lab, binary};
use clb_userspace::bench::{Report, Wrapper, live::Live};

#[test]
fn every_mode_is_measured_compared_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let [result, plot] = ["result.json", "plot.svg"].map(|name| folder.path().join(name));
    let few = ["--rounds", "2", "--packets", "1000"];
    let printed = bench(&few, &["--scenario", ", 1 flow", "--json", "--plot", path(&plot)]).unwrap();
    let report: Report = serde_json::from_str(&printed).unwrap();
    let names: BTreeSet<&str> = report.rows.iter().map(|row| row.scenario.as_str()).collect();
    for mode in ForwardingMode::ALL {
        for of in ["tcp, IPv4", "tcp, IPv6", "udp, IPv4", "udp, IPv6"] {
            let name = format!("{}, {of}", mode.name());
            assert!(names.contains(name.as_str()), "{name} is not among {names:?}");
        }
    }
    for row in &report.rows {
        let passes = row.scenario.starts_with("not for a listener");
        assert_eq!(row.verdict, if passes { "XDP_PASS" } else { "XDP_TX" }, "{}", row.scenario);
        assert!(row.with_floor.minimum > 0.0, "{row:?}");
    }
    assert!(report.programs.iter().all(|program| program.instructions > 100), "{:?}", report.programs);
    let drawn = fs::read_to_string(plot).unwrap();
    assert!(drawn.starts_with("<svg") && ForwardingMode::ALL.iter().all(|mode| drawn.contains(mode.name())), "{drawn}");

    fs::write(&result, &printed).unwrap();
    let compared = bench(&few, &["--scenario", "dsr, tcp, IPv4, 1 flow", "--compare", path(&result)]).unwrap();
    assert!(compared.contains("before") && compared.contains("ratio"), "{compared}");
    assert!(!compared.contains("note:"), "the machine is the same:\n{compared}");
}

#[test]
fn another_pinned_program_gets_the_same_packets() {
    let lab = Lab::new().unwrap();
    let bpf_fs = lab.bpf_fs(&lab.host("alone").unwrap()).unwrap();
    let mut programs = Wrapper::load().unwrap();
    let pinned = bpf_fs.join("other");
    programs.bare("swap").unwrap().pin(&pinned).unwrap();
    let of = ["--program", path(&pinned), "--to", "203.0.113.10:80", "--json"];
    let report: Report = serde_json::from_str(&bench(&["--rounds", "2", "--packets", "1000"], &of).unwrap()).unwrap();
    assert!(report.rows.len() > 3, "{report:?}");
    assert!(report.rows.iter().all(|row| row.verdict == "XDP_TX"), "{report:?}");
    assert!(report.programs.is_empty(), "no program of clb is measured: {report:?}");
}

#[test]
fn live_packets_arrive() {
    let live: Live = serde_json::from_str(&bench(&["--live", "--quick", "--json"], &[]).unwrap()).unwrap();
    let programs: BTreeSet<&str> = live.rates.iter().map(|rate| rate.program.as_str()).collect();
    assert_eq!(programs.len(), 1 + ForwardingMode::ALL.len(), "{live:?}");
    for rate in &live.rates {
        assert!(rate.packets_per_second > 0.0 && (0.0..0.5).contains(&rate.lost), "{rate:?}");
    }
}

#[test]
fn what_cannot_be_measured_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.json");
    fs::write(&other, "{}").unwrap();
    for (name, options, said) in [
        ("no such scenario", &["--quick", "--scenario", "carrier pigeon"][..], "no scenario's name holds"),
        ("no such program", &["--program", "/nowhere", "--to", "203.0.113.10:80"], "cannot open the program"),
        ("no such result", &["--compare", "/nowhere"], "cannot read /nowhere"),
        ("no result", &["--compare", path(&other)], "is not a result of clb"),
        ("nowhere to draw", &["--quick", "--scenario", "+ parse", "--plot", "/nowhere/plot.svg"], "cannot draw"),
    ] {
        let error = bench(options, &[]).unwrap_err();
        assert!(error.contains(said) && error.contains("help:"), "{name}: {error}");
    }
}

/// What it prints, or what it says if it fails.
fn bench(options: &[&str], more: &[&str]) -> Result<String, String> {
    let output = Command::new(binary().unwrap()).arg("bench").args(options).args(more).output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    Err(String::from_utf8(output.stderr).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
