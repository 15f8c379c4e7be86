//! `clb completions` and `clb man`, as shells and `man` read them.

use std::{
    fs, io,
    path::Path,
    process::{Command, Output},
};

use crate::transcript::command;

/// Bash completes with the script, asked as it asks itself.
#[test]
fn bash_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("clb.bash");
    fs::write(&script, generated(folder.path(), "completions bash")).unwrap();
    for (typed, offered) in [
        ("clb ch", "check"),
        ("clb bindable --as ", "cvm eni"),
        ("clb plan --max", "--max-moved"),
        ("clb check --format j", "json"),
        ("clb run --xdp-mode ", "auto native generic"),
    ] {
        let ask = r#"
            source "$1"
            read -ra COMP_WORDS <<< "$2"
            [[ $2 == *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
            _clb clb "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            echo "${COMPREPLY[*]}""#;
        let words = ["--norc", "-c", ask, "bash"];
        let output = Command::new("bash").args(words).arg(&script).arg(typed).output().unwrap();
        assert_eq!(text(output), format!("{offered}\n"), "{typed}");
    }
}

/// Each shell that is here reads the script without a complaint; bash is everywhere.
#[test]
fn shells_take_their_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    for (shell, only_read) in [("bash", "-n"), ("fish", "--no-execute"), ("zsh", "-n")] {
        fs::write(&script, generated(folder.path(), &format!("completions {shell}"))).unwrap();
        let said = match Command::new(shell).arg(only_read).arg(&script).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && shell != "bash" => continue,
            output => output.unwrap(),
        };
        assert_eq!(String::from_utf8_lossy(&said.stderr), "", "{shell}");
        assert!(said.status.success(), "{shell}");
    }
}

/// The third word is the date, which is none; `man` shows the fourth below the page.
#[test]
fn every_page_says_which_version_of_clb_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    generated(folder.path(), "man --dir .");
    let pages: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in &pages {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let page = fs::read_to_string(path).unwrap();
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(title.trim_end(), format!(".TH {name} 1 \" \" \"clb {version}\""));
        assert!(page.contains("\n.SH EXAMPLES\nExample: clb "), "{page}");
    }
    assert!(pages.len() > 3);
}

fn generated(folder: &Path, words: &str) -> String {
    text(command(folder, words).output().unwrap())
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
