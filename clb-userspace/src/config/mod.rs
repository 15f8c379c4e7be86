//! The configuration of the agent: a YAML file is read, checked against the binding rules, and becomes a [`Config`].
//!
//! Two forms: as written (`written`, with the place of every value, for the problems) and as meant (`model`, valid by
//! construction). [`load`] is pure: no I/O, no privileges. All problems of a file are found in one run.

mod document;
mod lines;
mod model;
mod nearest;
mod problem;
mod reader;
mod render;
mod rules;
mod written;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use self::{
    document::MAX_FILE_BYTES,
    problem::{Place, Problem},
};
pub use self::{
    model::{Affinity, Backend, BackendKind, Config, Forwarding, HealthCheck, HealthCheckKind, Listener, OnUnhealthy},
    problem::{Code, Severity},
    render::{Color, Problems},
};

/// A configuration that keeps all rules.
#[derive(Debug)]
pub struct Loaded {
    /// What the file means.
    pub config: Config,
    /// What a person should look at all the same.
    pub warnings: Problems,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file, or it cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file breaks rules.
    #[error("{0}")]
    Problems(Problems),
}

/// Reads and checks a file; `-` is standard input.
pub fn read(path: &Path) -> Result<Loaded, ReadError> {
    let is_stdin = path.as_os_str() == "-";
    let bytes = if is_stdin { read_bounded(io::stdin().lock()) } else { File::open(path).and_then(read_bounded) };
    let bytes = bytes.map_err(|source| ReadError::Io { path: path.into(), source })?;
    let name = if is_stdin { "<stdin>".into() } else { path.to_string_lossy() };
    load(&name, &bytes).map_err(ReadError::Problems)
}

/// One byte more than [`load`] takes is enough for it to say so.
fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks the text of a file. The name is for the messages.
pub fn load(file_name: &str, text: &[u8]) -> Result<Loaded, Problems> {
    let refused = |text: &str, problem| Err(Problems::new(file_name, text, vec![problem]));
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
        let help = "is this the right file? A configuration with half a million backends is half as large";
        return refused("", Problem::new(Code::Syntax, Place::new(0, 0), message, help));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = match str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            // What stands there in the text that is shown.
            let place = Place::new(at, at + char::REPLACEMENT_CHARACTER.len_utf8());
            let message = format!("the byte 0x{:02x} is not UTF-8", text[at]);
            let problem = Problem::new(Code::Syntax, place, message, "save the file with the encoding UTF-8");
            return refused(&String::from_utf8_lossy(text), problem);
        }
    };
    let mut problems = Vec::new();
    let root = document::parse(text, &mut problems);
    let file = root.as_ref().and_then(|root| written::read(root, &mut problems));
    let config = file.and_then(|file| rules::check(&file, &mut problems));
    let problems = Problems::new(file_name, text, problems);
    match config {
        Some(config) => Ok(Loaded { config, warnings: problems }),
        None => Err(problems),
    }
}
