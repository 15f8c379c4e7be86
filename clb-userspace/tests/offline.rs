//! The commands that need no agent, as a person runs them: what they print, say, and end with.

use std::process::{Command, Stdio};

struct Case {
    name: &'static str,
    words: &'static str,
}

/// Runs the command beside its files, and compares all of what it does with the snapshot.
fn check(Case { name, words }: &Case) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clb"));
    command.args(words.split_whitespace()).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/offline"));
    let output = command.env_clear().env("COLUMNS", "100").stdin(Stdio::null()).output().expect("run clb");
    let code = output.status.code().expect("an exit status");
    let [printed, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("offline");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let transcript = format!("$ clb {words}\n{printed}-- said\n{said}-- exit status {code}\n");
    settings.bind(|| insta::assert_snapshot!(name.replace(' ', "-"), transcript));
}

#[test]
fn bindable_lists_what_may_be_bound() {
    let cases = [
        Case { name: "bindable by itself", words: "bindable old.yaml" },
        Case { name: "bindable with what is forbidden", words: "bindable old.yaml --all" },
        Case { name: "bindable CVMs only", words: "bindable old.yaml --as cvm --all" },
        Case { name: "bindable for one listener", words: "bindable old.yaml --as eni --listener web" },
        Case { name: "bindable as JSON", words: "bindable old.yaml --as eni --listener web --all --format json" },
        Case { name: "bindable for a listener that is misspelt", words: "bindable old.yaml --listener wbe" },
        Case { name: "bindable of a file with errors", words: "bindable ../config/port-range.yaml" },
        Case { name: "bindable of no file", words: "bindable no-such.yaml" },
    ];
    cases.iter().for_each(check);
}

#[test]
fn plan_shows_what_changes() {
    let cases = [
        Case { name: "plan of all kinds of change", words: "plan old.yaml new.yaml" },
        Case { name: "plan as JSON", words: "plan old.yaml new.yaml --format json" },
        Case { name: "plan of no change", words: "plan old.yaml old.yaml --max-moved 0" },
        Case { name: "plan that moves too much", words: "plan old.yaml new.yaml --max-moved 50%" },
        Case { name: "plan that the cloud forbids", words: "plan old.yaml moved.yaml" },
        Case { name: "plan from a file with errors", words: "plan ../config/port-range.yaml new.yaml" },
        Case { name: "plan to no file", words: "plan old.yaml no-such.yaml" },
        Case { name: "plan without an agent", words: "plan new.yaml --socket no-such.sock" },
        Case { name: "plan with a share that is none", words: "plan old.yaml new.yaml --max-moved 101" },
    ];
    cases.iter().for_each(check);
}

#[test]
fn every_shell_and_every_command_has_its_file() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_clb")).args(words).output().expect("run clb");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        assert!(script.contains("bindable") && script.contains("max-moved"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    run(&["man", "--dir", folder.path().to_str().expect("a path")]);
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(page("clb.1"), run(&["man"]));
    let verbs = run(&["--help"]);
    let (_, verbs) = verbs.split_once("Commands:\n").expect("a list of commands");
    let verbs = verbs.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    for verb in verbs.filter(|verb| *verb != "help") {
        let help = run(&[verb, "--help"]);
        assert!(help.contains("Example: clb "), "{verb} has no example");
        assert!(page(&format!("clb-{verb}.1")).contains(&format!("Example: clb {verb}")), "{verb}");
    }
}
