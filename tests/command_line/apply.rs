//! `clb apply` where no agent answers, or there is nothing to send.

use std::fs;

use crate::transcript::assert_transcript;

#[test]
fn transcripts_of_apply_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lb.yaml"), "version: 1\n").unwrap();
    for (name, words) in [
        ("apply-no-agent", "apply lb.yaml --socket no-such.sock"),
        ("apply-no-agent-own-file", "apply --socket no-such.sock"),
        ("apply-missing", "apply missing.yaml --socket no-such.sock"),
        ("apply-no-percentage", "apply lb.yaml --max-moved much"),
    ] {
        assert_transcript(name, folder.path(), words, b"");
    }
}
