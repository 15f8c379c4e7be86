//! `clb check`: the binding rules, offline.

use std::process::ExitCode;

use super::{
    COULD_NOT_RUN, CheckArguments, Format, PROBLEM_FOUND, name_of, print, refuse_standard_input_twice, render_error,
    stderr_color, tell, unreadable,
};
use crate::config::{self, Problems, ReadError};

pub fn check(arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    refuse_standard_input_twice(&arguments.files)?;
    let mut worst = 0;
    let mut found = Vec::new();
    for file in &arguments.files {
        let problems = match config::read(file) {
            Ok(loaded) => loaded.warnings,
            Err(ReadError::Problems(problems)) => problems,
            Err(ReadError::Io { source, .. }) => {
                tell(&render_error(&unreadable(file, &source)));
                worst = COULD_NOT_RUN;
                continue;
            }
        };
        if problems.errors() > 0 {
            worst = worst.max(PROBLEM_FOUND);
        }
        match arguments.format {
            Format::Text => {
                tell(&problems.render(stderr_color()));
                tell(&format!("{}: {}\n", name_of(file), summary(&problems)));
            }
            Format::Json => match problems.to_json() {
                serde_json::Value::Array(list) => found.extend(list),
                other => found.push(other),
            },
        }
    }
    if let Format::Json = arguments.format {
        print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    }
    Ok(ExitCode::from(worst))
}

/// How many problems, in words.
pub fn summary(problems: &Problems) -> String {
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    match (problems.errors(), problems.warnings()) {
        (0, 0) => "no problems".to_owned(),
        (errors, 0) => count(errors, "error"),
        (0, warnings) => count(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}
