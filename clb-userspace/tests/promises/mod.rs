//! What the loader promises for any bytes. The fuzz target and the replay of its corpus both ask this.

use clb_userspace::config::{Color, Config, Loaded, Problems, load, load_candidates, load_change};
use serde_json::Value;

/// Panics if a promise is broken.
pub fn check(bytes: &[u8]) {
    match load("clb.yaml", bytes) {
        Ok(Loaded { config, warnings }) => {
            assert_eq!(warnings.errors(), 0, "accepted with an error");
            told(bytes, &warnings);
            can_be_used(bytes, &config);
        }
        Err(problems) => {
            assert!(problems.errors() > 0, "refused without a reason");
            told(bytes, &problems);
        }
    }
}

/// What was accepted is the same each time, also as a change of itself, and survives the way through the agent's socket.
fn can_be_used(bytes: &[u8], config: &Config) {
    let (again, _candidates) = load_candidates("clb.yaml", bytes).expect("what was valid once");
    assert_eq!(*config, again.config);
    assert_eq!(*config, load_change(config, "clb.yaml", bytes).expect("no change").config);
    let sent = serde_json::to_string(config).expect("a configuration as JSON");
    assert_eq!(*config, serde_json::from_str(&sent).expect("a configuration from JSON"));
}

/// All problems can be shown, in the order of the file, and stand in the text or at its end.
fn told(bytes: &[u8], problems: &Problems) {
    problems.render(Color::Always);
    let acts = |character: char| character.is_control() && character != '\n';
    let rendered = problems.render(Color::Never);
    assert!(!rendered.contains(acts), "a character that acts on a terminal: {rendered:?}");
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let lines: Vec<usize> = text.replace("\r\n", "\n").split(['\n', '\r']).map(|line| line.chars().count()).collect();
    let printed = problems.to_json().to_string();
    let told: Vec<Value> = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(told.len(), problems.len());
    let mut before = (1, 1);
    for problem in told {
        let number = |key: &str| problem[key].as_u64().expect("a number") as usize;
        let (line, column) = (number("line"), number("column"));
        assert!((1..=lines.len()).contains(&line), "{problem} of {} lines", lines.len());
        assert!((1..=lines[line - 1] + 1).contains(&column), "{problem} in {} columns", lines[line - 1]);
        assert!(before <= (line, column), "{problem} stands before {before:?}");
        assert!(["code", "severity", "message", "help"].iter().all(|key| problem[*key] != ""), "{problem}");
        before = (line, column);
    }
}
