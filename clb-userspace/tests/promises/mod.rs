//! What the loader promises for any bytes. The fuzz target and the replay of its corpus both ask this.

use clb_userspace::config::{Color, Loaded, Problems, load};

/// Panics if a promise is broken.
pub fn check(bytes: &[u8]) {
    match load("clb.yaml", bytes) {
        Ok(Loaded { config, warnings }) => {
            assert_eq!(warnings.errors(), 0, "accepted with an error");
            told(bytes, &warnings);
            let again = load("clb.yaml", bytes).expect("what was valid once");
            assert_eq!(config, again.config);
        }
        Err(problems) => {
            assert!(problems.errors() > 0, "refused without a reason");
            told(bytes, &problems);
        }
    }
}

/// All problems can be shown, and stand in the text or at its end.
fn told(bytes: &[u8], problems: &Problems) {
    problems.render(Color::Always);
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let lines: Vec<usize> = text.replace("\r\n", "\n").split(['\n', '\r']).map(|line| line.chars().count()).collect();
    for problem in problems.to_json().as_array().expect("an array") {
        let number = |key: &str| problem[key].as_u64().expect("a number") as usize;
        let (line, column) = (number("line"), number("column"));
        assert!((1..=lines.len()).contains(&line), "{problem} of {} lines", lines.len());
        assert!((1..=lines[line - 1] + 1).contains(&column), "{problem} in {} columns", lines[line - 1]);
    }
}
