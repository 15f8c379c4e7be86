//! The configuration of the agent: a YAML file is read, checked against the binding rules, and becomes a [`Config`].
//!
//! Two forms: as written (`written`, with the place of every value, for the problems) and as meant (`model`, valid by
//! construction). [`load`] and [`load_change`] are pure: no I/O, no privileges. All problems of a file are found in one
//! run, those of a change to the configuration in force among them.

mod as_written;
mod cloud;
mod document;
mod health_check;
pub mod keys;
mod lines;
mod model;
mod nearest;
mod problem;
mod reader;
mod render;
mod rules;
mod schema;
mod written;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use self::problem::{Collected, Place, Problem};
use xxhash_rust::xxh3::xxh3_128;

pub use self::{
    cloud::{Cvm, Eni, Role},
    document::MAX_FILE_BYTES,
    health_check::{HealthCheck, HealthCheckKind, HttpCheck, HttpMethod, Payload, Statuses, UdpCheck},
    model::{Affinity, Backend, BackendKind, Config, Forwarding, Listener, OnUnhealthy, TunnelSources},
    nearest::nearest,
    problem::{Code, Severity},
    reader::{Seconds, parse_duration},
    render::{Color, Problems},
    rules::{Candidate, Forbidden},
    schema::schema,
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
    read_with(path, load)
}

/// As [`read`], for a file that is to replace `before`.
pub fn read_change(before: &Config, path: &Path) -> Result<Loaded, ReadError> {
    read_with(path, |name, text| load_change(before, name, text))
}

/// As [`read`], with all that could be bound.
pub fn read_candidates(path: &Path) -> Result<(Loaded, Vec<Candidate>), ReadError> {
    read_with(path, load_candidates)
}

/// Reads a file without checking it; `-` is standard input. Of one that is too long only the beginning.
pub fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    if is_stdin(path) { read_bounded(io::stdin().lock()) } else { File::open(path).and_then(read_bounded) }
}

/// By which two texts are told apart.
pub fn digest(text: &[u8]) -> u128 {
    xxh3_128(text)
}

fn read_with<T>(path: &Path, load: impl FnOnce(&str, &[u8]) -> Result<T, Problems>) -> Result<T, ReadError> {
    let bytes = read_text(path).map_err(|source| ReadError::Io { path: path.into(), source })?;
    let name = if is_stdin(path) { "<stdin>".into() } else { path.to_string_lossy() };
    load(&name, &bytes).map_err(ReadError::Problems)
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// One byte more than [`load`] takes is enough for it to say so.
fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks the text of a file. The name is for the messages.
pub fn load(file_name: &str, text: &[u8]) -> Result<Loaded, Problems> {
    let (config, warnings) = load_with(file_name, text, |file, problems| rules::check(file, None, problems))?;
    Ok(Loaded { config, warnings })
}

/// Checks the text of a file that is to replace `before`: also the rules for a change.
pub fn load_change(before: &Config, file_name: &str, text: &[u8]) -> Result<Loaded, Problems> {
    let (config, warnings) = load_with(file_name, text, |file, problems| rules::check(file, Some(before), problems))?;
    Ok(Loaded { config, warnings })
}

/// Checks the text of a file, and lists what it has that could be bound.
pub fn load_candidates(file_name: &str, text: &[u8]) -> Result<(Loaded, Vec<Candidate>), Problems> {
    let ((config, candidates), warnings) = load_with(file_name, text, |file, problems| {
        Some((rules::check(file, None, problems)?, rules::candidates(file)))
    })?;
    Ok((Loaded { config, warnings }, candidates))
}

fn load_with<T>(
    file_name: &str,
    text: &[u8],
    check: impl FnOnce(&written::File<'_>, &mut Collected) -> Option<T>,
) -> Result<(T, Problems), Problems> {
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
    let mut problems = Collected::default();
    let root = document::parse(text, &mut problems);
    let file = root.as_ref().and_then(|root| written::read(root, &mut problems));
    let checked = file.and_then(|file| check(&file, &mut problems));
    let problems = Problems::new(file_name, text, problems.into_problems());
    match checked {
        Some(checked) => Ok((checked, problems)),
        None => Err(problems),
    }
}
