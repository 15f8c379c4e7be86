//! `clb completions` and `clb man`, as shells and `man` read them.

use std::{
    fs,
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

/// What stands at the rim of each page: its name and section above, the version that it is of below.
#[test]
fn man_shows_every_page_as_one_of_clb() {
    let folder = tempfile::tempdir().unwrap();
    generated(folder.path(), "man --dir .");
    let mut pages = 0;
    for path in fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let mut man = Command::new("groff");
        let output = man.args(["-man", "-Tascii", "-P-c", "-rLL=90n", "-ww"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let page = text(output);
        assert_eq!(said, "", "{name}");
        let lines: Vec<_> = page.lines().filter(|line| !line.trim().is_empty()).collect();
        let [first, .., last] = lines[..] else { panic!("{page}") };
        assert_eq!(first.split_whitespace().next(), Some(&*format!("{name}(1)")), "{page}");
        let version = concat!("clb ", env!("CARGO_PKG_VERSION"));
        assert_eq!(last.split_whitespace().collect::<Vec<_>>().join(" "), format!("{version} {name}(1)"), "{page}");
        assert!(page.contains("Example: clb "), "{page}");
        pages += 1;
    }
    assert!(pages > 3);
}

fn generated(folder: &Path, words: &str) -> String {
    text(command(folder, words).output().unwrap())
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
