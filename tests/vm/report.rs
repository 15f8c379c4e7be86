//! What the guest tells its host: a line for each check, and one at the end, without which the host knows that it died.
//!
//! A line is `name`, `ok` or `failed`, milliseconds and a sentence, with tabs between them; a count is `counted` and has its
//! number for the sentence. All of an error goes to the
//! console, which the host shows when a check failed.

use std::{
    fs::File,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};

/// The line to the host.
pub struct Report {
    port: File,
    failures: usize,
}

impl Report {
    pub fn open() -> Result<Self> {
        let port = File::options().write(true).open(PORT).with_context(|| format!("open {PORT}"))?;
        Ok(Self { port, failures: 0 })
    }

    /// Runs a check and reports what it says, or why it failed; a panic is a failure.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) {
        self.run(name, "ok", check);
    }

    /// The same for what is counted: a number.
    pub fn count(&mut self, name: &str, count: impl FnOnce() -> Result<u64>) {
        self.run(name, "counted", || count().map(|count| count.to_string()));
    }

    fn run(&mut self, name: &str, good: &str, check: impl FnOnce() -> Result<String>) {
        let started = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            Err(anyhow!(said.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned())).unwrap_or_default()))
        });
        let (outcome, said) = match done {
            Ok(said) => (good, said),
            Err(error) => {
                self.failures += 1;
                eprintln!("{name}: {error:?}");
                ("failed", format!("{error:#}"))
            }
        };
        let said = said.lines().next().unwrap_or_default();
        self.line(&format!("{name}\t{outcome}\t{}\t{said}", started.elapsed().as_millis()));
    }

    pub fn has_failures(&self) -> bool {
        self.failures > 0
    }

    /// Says that all checks were run.
    pub fn end(&mut self) -> Result<()> {
        self.line("end");
        nix::sys::termios::tcdrain(&self.port).context("wait until the host has the report")
    }

    fn line(&mut self, line: &str) {
        // The host notices what is missing.
        if let Err(error) = writeln!(self.port, "{line}") {
            eprintln!("error: report `{line}`: {error}");
        }
    }
}

/// The second serial port; the first is the console.
const PORT: &str = "/dev/ttyS1";
