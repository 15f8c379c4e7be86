//! Waiting for a condition, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks again and again until the answer is yes; an error ends the waiting, and so does the deadline.
pub fn wait_until(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !ask()? {
        if started.elapsed() > deadline {
            bail!("waited {} s in vain until {what}", deadline.as_secs());
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

const PAUSE: Duration = Duration::from_millis(20);
