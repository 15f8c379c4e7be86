//! What is seen while something long runs whose own output nobody wants to read.
//!
//! On a terminal: a spinner with the time and the command's latest line. Elsewhere: plain lines, and one every few seconds
//! with the same, so that a log never looks dead. The whole output is shown only if the command fails.

use std::io::{IsTerminal as _, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs `command` behind a sign of life called `what`; fails with the end of its output if it does.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let (status, lines) = output(what, command)?;
    if !status.success() {
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
        bail!("{what} failed ({status}); the end of its output:\n\n    {tail}\n");
    }
    Ok(())
}

/// The same for whoever reads the output, of both kinds, and judges it.
pub fn output(what: &str, command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let sign = SignOfLife::start(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: start {}", command.get_program().display()))?;

    let (sender, lines) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|pipe| read_lines(pipe, sender.clone())),
        child.stderr.take().map(|pipe| read_lines(pipe, sender)),
    ];
    let mut output: Vec<String> = Vec::new();
    loop {
        match lines.recv_timeout(HEARTBEAT) {
            Ok(line) => {
                sign.show(&line);
                output.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        sign.beat(output.last().map_or("", String::as_str));
    }
    for reader in readers.into_iter().flatten() {
        reader.join().map_err(|_| anyhow::anyhow!("{what}: a reader of its output panicked"))?;
    }

    let status = child.wait().with_context(|| format!("{what}: wait for it"))?;
    sign.end(if status.success() { "done in" } else { "failed after" });
    Ok((status, output))
}

/// The headline of a step.
pub fn headline(text: &str) {
    eprintln!("\n==> {text}");
}

/// `75.3 s` as people say it.
pub fn spoken(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, 0..10) => format!("{:.1} s", time.as_secs_f32()),
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

struct SignOfLife {
    what: String,
    started: Instant,
    shown: Display,
}

enum Display {
    Terminal(ProgressBar),
    Lines { last: std::cell::Cell<Instant> },
}

impl SignOfLife {
    fn start(what: &str) -> Self {
        let started = Instant::now();
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_prefix(what.to_owned());
            let style = ProgressStyle::with_template("  {spinner} {prefix}  {elapsed}  {wide_msg:.dim}");
            bar.set_style(style.expect("the template is a constant"));
            bar.enable_steady_tick(Duration::from_millis(100));
            Display::Terminal(bar)
        } else {
            eprintln!("  {what} …");
            Display::Lines { last: std::cell::Cell::new(started) }
        };
        Self { what: what.to_owned(), started, shown }
    }

    fn show(&self, line: &str) {
        if let Display::Terminal(bar) = &self.shown {
            bar.set_message(line.to_owned());
        }
    }

    fn beat(&self, line: &str) {
        if let Display::Lines { last } = &self.shown
            && last.get().elapsed() >= HEARTBEAT
        {
            last.set(Instant::now());
            eprintln!("  {} … {}: {}", self.what, spoken(self.started.elapsed()), line.trim());
        }
    }

    fn end(&self, outcome: &str) {
        if let Display::Terminal(bar) = &self.shown {
            bar.finish_and_clear();
        }
        eprintln!("  {}: {outcome} {}", self.what, spoken(self.started.elapsed()));
    }
}

/// Sends what `pipe` says line by line; a carriage return ends a line too, as apt redraws its own.
fn read_lines(mut pipe: impl Read + Send + 'static, lines: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut buffer, mut line) = ([0; 4096], Vec::new());
        // A pipe that cannot be read is a pipe that has ended: the exit status tells the rest.
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            for &byte in &buffer[..length] {
                if matches!(byte, b'\n' | b'\r') {
                    send(&mut line, &lines);
                } else {
                    line.push(byte);
                }
            }
        }
        send(&mut line, &lines);
    })
}

fn send(line: &mut Vec<u8>, lines: &Sender<String>) {
    if !line.is_empty() {
        // The receiver outlives the pipe: it waits until both readers are gone.
        let _ = lines.send(String::from_utf8_lossy(line).into_owned());
        line.clear();
    }
}

const HEARTBEAT: Duration = Duration::from_secs(10);
const TAIL: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_shows_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo to stdout; echo to stderr >&2; exit 3"]);
        let error = run("the command", &mut command).unwrap_err().to_string();
        for said in ["the command failed", "exit status: 3", "to stdout", "to stderr"] {
            assert!(error.contains(said), "{said:?} is missing in: {error}");
        }
    }

    #[test]
    fn times_are_said_as_people_do() {
        for (milliseconds, expected) in [(1_234, "1.2 s"), (45_900, "45 s"), (88_000, "1 min 28 s")] {
            assert_eq!(spoken(Duration::from_millis(milliseconds)), expected);
        }
    }
}
