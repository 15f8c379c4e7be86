//! `clb check`: exit status 0 without errors, 1 with errors, 2 if a file could not be read.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use clb_tests::repository;

use crate::transcript::{assert_transcript, command};

#[test]
fn transcripts_of_check() {
    for (name, words) in [
        ("check-good", "check good.yaml"),
        ("check-good-json", "check --format json good.yaml"),
        ("check-error", "check weight-range.yaml"),
        ("check-error-json", "check --format json weight-range.yaml"),
        ("check-error-with-labels", "check duplicate-backend.yaml"),
        ("check-warning", "check all-weights-zero.yaml"),
        ("check-warning-json", "check --format=json all-weights-zero.yaml"),
        ("check-broken", "check syntax.yaml"),
        ("check-several", "check good.yaml dsr-port.yaml all-weights-zero.yaml"),
        ("check-several-json", "check good.yaml dsr-port.yaml all-weights-zero.yaml --format json"),
        ("check-missing", "check no-such.yaml"),
        ("check-missing-json", "check --format json no-such.yaml weight-range.yaml"),
        ("check-missing-among-others", "check weight-range.yaml no-such.yaml good.yaml"),
        ("check-folder", "check ."),
        ("check-stdin-twice", "check - good.yaml -"),
        ("check-several-broken", "check dsr-port.yaml zone-mismatch.yaml"),
        // One that the kernel lets nobody read, not even root.
        ("check-not-readable", "check /sys/bus/platform/drivers_probe"),
        ("check-below-a-file", "check good.yaml/good.yaml"),
        ("check-nothing-in-it", "check /dev/null"),
        ("check-endless", "check /dev/zero"),
        ("run-error", "run --config weight-range.yaml"),
        ("run-missing", "run --config no-such.yaml"),
        ("run-stdin", "run --config -"),
        ("bindable-broken", "bindable dsr-port.yaml"),
        ("plan-broken", "plan good.yaml dsr-port.yaml"),
        ("plan-stdin-twice", "plan - -"),
    ] {
        assert_transcript(name, &corpus(), words, b"");
    }
}

#[test]
fn transcripts_of_standard_input() {
    let read = |name: &str| fs::read(corpus().join(name)).unwrap();
    for (name, words, input) in [
        ("check-stdin-good", "check -", read("good.yaml")),
        ("check-stdin-error", "check -", read("port-range.yaml")),
        ("check-stdin-error-json", "check --format json -", read("port-range.yaml")),
        ("check-pipe-with-a-name", "check /dev/stdin", read("port-range.yaml")),
        ("check-stdin-not-closed", "check -", b"version: [\n".to_vec()),
        ("check-stdin-empty", "check -", Vec::new()),
        ("check-stdin-not-text", "check -", b"version: 1\n# \xff\n".to_vec()),
        ("check-stdin-escape-codes", "check -", b"version: 1\n\"\\e[31mred\": 1\n".to_vec()),
    ] {
        assert_transcript(name, &corpus(), words, &input);
    }
}

/// What cannot be read at all, given as standard input.
#[test]
fn standard_input_that_cannot_be_read_is_told_by_its_name() {
    let folder = File::open(corpus()).unwrap();
    let output = command(&corpus(), "check -").stdin(folder).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: cannot read <stdin>: Is a directory") && said.contains("\nhelp: "), "{said}");
}

/// The examples are good, all at once.
#[test]
fn the_examples_have_no_problems() {
    let examples = fs::read_dir(repository().join("config")).unwrap();
    let examples = examples.map(|entry| entry.unwrap().path());
    let examples: Vec<_> =
        examples.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    assert!(!examples.is_empty());
    let output = command(&repository().join("config"), "check").args(&examples).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.ends_with(": no problems")).count(), examples.len(), "{said}");
}

/// One file for each rule.
fn corpus() -> PathBuf {
    repository().join("clb-userspace/tests/config")
}
