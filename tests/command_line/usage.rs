//! Help, and what is said to somebody who typed something else: exit status 2.

use clb_tests::repository;

use crate::transcript::{assert_transcript, command};

#[test]
fn transcripts_of_help() {
    for (name, words) in [("help", "--help"), ("help-short", "-h")] {
        assert_transcript(name, repository(), words, b"");
    }
    let verbs = verbs();
    assert!(verbs.len() > 3, "{verbs:?}");
    for verb in verbs {
        assert_transcript(&format!("help-{verb}"), repository(), &format!("{verb} --help"), b"");
    }
}

/// All that `clb --help` lists, `help` apart.
fn verbs() -> Vec<String> {
    let output = command(repository(), "--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let lines = commands.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").map(str::to_owned).collect()
}

#[test]
fn transcripts_of_bad_usage() {
    for (name, words) in [
        ("usage-nothing", ""),
        ("usage-unknown-command", "chekc config/demo.yaml"),
        ("usage-unknown-option", "check --fromat json config/demo.yaml"),
        ("usage-unknown-format", "check --format xml config/demo.yaml"),
        ("usage-no-file", "check"),
        ("usage-no-config", "run"),
        ("usage-unknown-mode", "run --config config/demo.yaml --xdp-mode offload"),
        ("usage-too-much", "status now"),
        ("usage-no-backend", "drain"),
        ("usage-no-address", "drain web"),
        ("usage-no-duration", "drain 10.0.1.11 --wait --timeout 10"),
        ("usage-timeout-alone", "drain 10.0.1.11 --timeout 10m"),
    ] {
        assert_transcript(name, repository(), words, b"");
    }
}

#[test]
fn the_version_is_the_workspace_s() {
    let output = command(repository(), "--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), concat!("clb ", env!("CARGO_PKG_VERSION"), "\n"));
}
