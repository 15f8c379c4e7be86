//! The commands of the README: each is one that clb has, and where the README shows what a command prints, it prints that.

use std::fs;

use clb_tests::{Lab, repository};

use crate::transcript::command;

/// A command of the README, and the lines below it.
struct Shown<'r> {
    words: &'r str,
    output: String,
}

#[test]
fn transcripts_of_the_readme_are_what_clb_says() {
    let readme = readme();
    let shown: Vec<_> = shown(&readme).into_iter().filter(|shown| !shown.output.is_empty()).collect();
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in [
        ("lb.yaml", "config/primary-ip-bound-as-eni.yaml"),
        ("old.yaml", "offline/old.yaml"),
        ("new.yaml", "offline/new.yaml"),
    ] {
        fs::copy(repository().join("clb-userspace/tests").join(file), folder.path().join(name)).unwrap();
    }
    for Shown { words, output } in &shown {
        let ran = command(folder.path(), words).output().unwrap();
        let [printed, said] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(format!("{said}{printed}"), *output, "clb {words}");
    }
    assert!(shown.len() >= 2, "the README shows what `clb check` and `clb plan` say");
}

/// In an empty folder they have nothing to read, and on a host without interfaces nothing to attach to; but a word that clb does
/// not know is told before.
#[test]
fn commands_of_the_readme_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let readme = readme();
    let shown = shown(&readme);
    let lab = Lab::new().unwrap();
    let host = lab.host("empty").unwrap();
    for Shown { words, .. } in &shown {
        let ran = host.enter(|| command(folder.path(), words).output()).unwrap().unwrap();
        assert!(!ran.status.success(), "clb {words} ran");
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(!said.contains("\nUsage: "), "clb {words}: {said}");
    }
    assert!(shown.len() > 5);
}

/// The commands to clb in the blocks of the console, without `sudo` and what a comment says of them.
fn shown(readme: &str) -> Vec<Shown<'_>> {
    let mut all = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        for line in block.lines() {
            match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(typed), _) => {
                    let words = typed.split_once(" #").map_or(typed, |(words, _)| words);
                    all.push(Shown { words, output: String::new() });
                }
                (None, Some(Shown { output, .. })) => output.push_str(&format!("{line}\n")),
                (None, None) => panic!("a block of the console begins with a command: {block}"),
            }
        }
    }
    let of_clb = |Shown { words, output }| {
        let words: &str = words;
        Some(Shown { words: words.trim_start_matches("sudo ").strip_prefix("clb ")?, output })
    };
    all.into_iter().filter_map(of_clb).collect()
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}
