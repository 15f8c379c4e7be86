//! An error as a person reads it: what was tried and why it failed in one line, then what to do about it.
//!
//! Any cause of an error may carry a line that begins with `help: `; they all come last.

use std::fmt;

/// What went wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What was tried, and why it failed.
    pub what: String,
    /// What to do about it, a line each.
    pub help: Vec<String>,
}

impl From<&anyhow::Error> for Complaint {
    fn from(error: &anyhow::Error) -> Self {
        let (mut what, mut help) = (Vec::new(), Vec::new());
        for cause in error.chain() {
            let text = cause.to_string();
            let (message, hints) =
                text.split_once("\nhelp: ").map_or((text.as_str(), None), |(m, h)| (m, Some(h.to_owned())));
            // Some libraries repeat their cause in their own message.
            if !what.iter().any(|said: &String| said.ends_with(message)) {
                what.push(message.to_owned());
            }
            help.extend(hints);
        }
        Self { what: what.join(": "), help }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.what)?;
        self.help.iter().try_for_each(|help| write!(formatter, "\nhelp: {help}"))
    }
}
