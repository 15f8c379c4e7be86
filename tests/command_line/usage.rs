//! Help, and what is said to somebody who typed something else: exit status 2.

use clb_tests::repository;

use crate::transcript::{assert_transcript, command};

#[test]
fn transcripts_of_help() {
    for (name, words) in [
        ("help", "--help"),
        ("help-short", "-h"),
        ("help-run", "run --help"),
        ("help-check", "check --help"),
        ("help-bindable", "bindable --help"),
        ("help-plan", "plan --help"),
        ("help-status", "status --help"),
    ] {
        assert_transcript(name, repository(), words, b"");
    }
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
    ] {
        assert_transcript(name, repository(), words, b"");
    }
}

#[test]
fn the_version_is_the_workspace_s() {
    let output = command(repository(), "--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), concat!("clb ", env!("CARGO_PKG_VERSION"), "\n"));
}
