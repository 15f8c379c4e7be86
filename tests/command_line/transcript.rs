//! Running a command to its end, and showing all of what it said.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::binary::clb;

/// A command of words without spaces in them, in a folder, without the caller's environment.
pub fn command(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(clb());
    command.args(words.split_whitespace()).current_dir(folder).env_clear().env("COLUMNS", "100");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Compares with the snapshot of this name: the command, its exit status, and both outputs.
pub fn assert_transcript(name: &str, folder: &Path, words: &str, input: &[u8]) {
    let mut child = command(folder, words).stdin(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let [printed, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!format!("{printed}{said}").contains('\x1b'), "{name}: escape codes: {printed}{said}");
    let code = output.status.code().unwrap_or_else(|| panic!("{name}: {}", output.status));
    let mut transcript = format!("$ clb {words}\nexit status {code}\n");
    for (title, text) in [("standard output", printed), ("standard error", said)] {
        if !text.is_empty() {
            transcript.push_str(&format!("-- {title}\n{text}"));
        }
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, transcript));
}
