//! `clb run`: the agent.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{PROBLEM_FOUND, RunArguments, check::summary, stderr_color};
use crate::{
    config::{self, ReadError},
    control::{self, Options},
    dataplane::DropLog,
};

pub fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let RunArguments { config: file, xdp_mode, allow_unresolved, log_drops, socket } = arguments;
    start_logging()?;
    let loaded = match config::read(file) {
        Ok(loaded) => loaded,
        Err(ReadError::Problems(problems)) => {
            eprint!("{}", problems.render(stderr_color()));
            eprintln!("{}: {}; nothing was started", file.display(), summary(&problems));
            return Ok(ExitCode::from(PROBLEM_FOUND));
        }
        Err(error @ ReadError::Io { .. }) => return Err(error.into()),
    };
    eprint!("{}", loaded.warnings.render(stderr_color()));
    let options = Options {
        file: file.clone(),
        xdp_mode: *xdp_mode,
        unresolved: if *allow_unresolved { control::Unresolved::Allow } else { control::Unresolved::Refuse },
        drop_log: if *log_drops { DropLog::On } else { DropLog::Off },
        socket: socket.socket.clone(),
        color: stderr_color(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    runtime.block_on(control::run(options, loaded.config))?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging() -> anyhow::Result<()> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var("CLB_LOG");
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env().context("read the log filter in CLB_LOG")?)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .with_target(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
