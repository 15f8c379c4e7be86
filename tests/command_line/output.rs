//! Where the output goes: colours on a terminal only, and a reader that has gone is no disaster.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
    process::Command,
};

use clb_tests::repository;
use nix::pty::openpty;

use crate::transcript::command;

#[test]
fn colours_are_for_terminals_whose_user_wants_them() {
    for (name, words, environment, is_coloured) in [
        ("problems", "check weight-range.yaml", None, true),
        ("an empty NO_COLOR means nothing", "check weight-range.yaml", Some(("NO_COLOR", "")), true),
        ("problems, NO_COLOR", "check weight-range.yaml", Some(("NO_COLOR", "1")), false),
        ("problems at the start", "run --config weight-range.yaml", None, true),
        ("problems at the start, NO_COLOR", "run --config weight-range.yaml", Some(("NO_COLOR", "1")), false),
        ("help, NO_COLOR", "--help", Some(("NO_COLOR", "1")), false),
        ("data is never coloured", "check --format json weight-range.yaml", None, false),
    ] {
        let mut command = command(&corpus(), words);
        command.env("TERM", "xterm").envs(environment);
        let shown = on_terminal(command);
        assert_eq!(shown.contains('\x1b'), is_coloured, "{name}: {shown}");
    }
}

/// Runs a command on a terminal of its own, and returns what it shows.
fn on_terminal(mut command: Command) -> String {
    let terminal = openpty(None, None).unwrap();
    let end = || terminal.slave.try_clone().unwrap();
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    // The command holds ends of its own; the terminal hangs up with the last of all.
    drop((command, terminal.slave));
    let mut shown = Vec::new();
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

#[test]
fn a_reader_that_has_gone_changes_no_exit_status() {
    for (words, code) in [
        ("check --format json weight-range.yaml", 1),
        ("check weight-range.yaml", 1),
        ("check good.yaml", 0),
        ("check no-such.yaml", 2),
        ("run --config weight-range.yaml", 1),
        ("bindable good.yaml", 0),
        ("plan good.yaml good.yaml", 0),
        ("schema", 0),
        ("completions bash", 0),
        ("man", 0),
        ("--help", 0),
    ] {
        let gone = || io::pipe().unwrap().1;
        let status = command(&corpus(), words).stdout(gone()).stderr(gone()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{words}");
    }
}

#[test]
fn data_that_cannot_be_written_is_told() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command(&corpus(), "check --format json good.yaml").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: write to standard output: No space left on device"), "{said}");
}

fn corpus() -> PathBuf {
    repository().join("clb-userspace/tests/config")
}
