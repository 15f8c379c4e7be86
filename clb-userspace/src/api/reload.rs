//! The questions and answers of `clb apply`: a configuration to be taken, what it changed, or why it was not taken.
//!
//! The text goes as it is, as the body; what is said of it stands in the query, so that a person can do the same with
//! `curl --data-binary @lb.yaml`.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{config::Color, control::Change};

/// A configuration that is to replace the one in force.
#[derive(Debug)]
pub struct Proposal {
    /// Where it comes from.
    pub text: Text,
    /// How, and on which condition.
    pub terms: Terms,
}

/// Where the text of a configuration comes from.
#[derive(Debug)]
pub enum Text {
    /// The agent reads its own file again.
    OwnFile,
    /// It was sent.
    Sent(Vec<u8>),
}

/// What is said of a configuration beside its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// What it is called in messages.
    pub name: String,
    /// The file that has the same text, to become the agent's own.
    pub file: Option<PathBuf>,
    /// Refuse it if more than this share of any listener's slots moves, from 0 to 100.
    pub max_moved: Option<f64>,
    /// How problems are rendered.
    pub color: Color,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// What changed.
    pub plan: Change,
    /// From when the text was there to the last change of a map.
    pub seconds: f64,
    /// What is in force now.
    pub configuration: String,
    /// The file that SIGHUP reads from now on.
    pub file: String,
    /// Whether SIGHUP read another one before.
    pub file_is_new: bool,
    /// What a person should look at all the same, as `clb check --format json` has it.
    pub warnings: Vec<Value>,
    /// The same for a person.
    pub rendered: String,
}

/// Why a configuration was not taken. The one before stays in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What, and in lines that begin with `help: ` what to do about it.
    pub error: String,
    /// What is wrong with the text, as `clb check --format json` has it; empty if it is not the text.
    pub problems: Vec<Value>,
    /// The same for a person.
    pub rendered: String,
}

impl Terms {
    /// As a query.
    pub fn to_query(&self) -> String {
        let Self { name, file, max_moved, color } = self;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("name", name);
        // A path that is no text is not the agent's to read again.
        if let Some(file) = file.as_ref().and_then(|file| file.to_str()) {
            query.append_pair("file", file);
        }
        if let Some(max_moved) = max_moved {
            query.append_pair("max_moved", &max_moved.to_string());
        }
        if *color == Color::Always {
            query.append_pair("color", "always");
        }
        query.finish()
    }

    /// From a query, in which everything may be left out.
    pub fn from_query(query: &str) -> anyhow::Result<Self> {
        let mut terms = Self { name: "<request>".to_owned(), file: None, max_moved: None, color: Color::Never };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "name" => {
                    // It goes to the log.
                    ensure!(!value.chars().any(char::is_control), "name has a control character");
                    terms.name = value.into_owned();
                }
                "file" => {
                    let file = PathBuf::from(value.into_owned());
                    ensure!(file.is_absolute(), "file is no absolute path");
                    terms.file = Some(file);
                }
                "max_moved" => {
                    let share = value.parse().ok().filter(|share| (0.0..=100.0).contains(share));
                    terms.max_moved = Some(share.context("max_moved is no number from 0 to 100")?);
                }
                "color" => {
                    terms.color = match &*value {
                        "always" => Color::Always,
                        "never" => Color::Never,
                        _ => bail!("color is `always` or `never`"),
                    }
                }
                _ => bail!("{key:?} is not known here: name, file, max_moved and color are"),
            }
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_survive_a_query() {
        for terms in [
            Terms { name: "<stdin>".into(), file: None, max_moved: None, color: Color::Never },
            Terms {
                name: "a b&c=ü%.yaml".into(),
                file: Some("/x/a b&c=ü%.yaml".into()),
                max_moved: Some(12.5),
                color: Color::Always,
            },
        ] {
            assert_eq!(Terms::from_query(&terms.to_query()).unwrap(), terms);
        }
    }

    #[test]
    fn a_query_that_makes_no_sense_is_refused() {
        for (query, said) in [
            ("nmae=x", "\"nmae\" is not known"),
            ("name=a%0ab", "control character"),
            ("file=lb.yaml", "absolute"),
            ("max_moved=101", "0 to 100"),
            ("max_moved=NaN", "0 to 100"),
            ("color=red", "`always` or `never`"),
        ] {
            let error = Terms::from_query(query).unwrap_err().to_string();
            assert!(error.contains(said), "{query}: {error}");
        }
    }
}
