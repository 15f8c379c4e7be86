//! `clb run`: the agent.

use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{PROBLEM_FOUND, RunArguments, check::summary, name_of, stderr_color, tell, unreadable};
use crate::{
    config::{self, Color},
    control::{self, OnChange, Options},
    dataplane::DropLog,
};

pub fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let RunArguments { config: file, xdp_mode, allow_unresolved, log_drops, watch, metrics, bpf_fs, socket } =
        arguments;
    start_logging()?;
    control::check_file(file)?;
    let text = config::read_text(file).map_err(|source| unreadable(file, &source))?;
    let loaded = match config::load(&name_of(file), &text) {
        Ok(loaded) => loaded,
        Err(problems) => {
            tell(&problems.render(stderr_color()));
            tell(&format!("{}: {}; nothing was started\n", name_of(file), summary(&problems)));
            return Ok(ExitCode::from(PROBLEM_FOUND));
        }
    };
    tell(&loaded.warnings.render(stderr_color()));
    let options = Options {
        file: file.clone(),
        digest: config::digest(&text),
        xdp_mode: *xdp_mode,
        unresolved: if *allow_unresolved { control::Unresolved::Allow } else { control::Unresolved::Refuse },
        drop_log: if *log_drops { DropLog::On } else { DropLog::Off },
        bpf_fs: bpf_fs.bpf_fs.clone(),
        socket: socket.socket.clone(),
        metrics: *metrics,
        on_change: if *watch { OnChange::Reload } else { OnChange::Wait },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the event loop")?;
    runtime.block_on(control::run(options, loaded.config))?;
    Ok(ExitCode::SUCCESS)
}

pub fn start_logging() -> anyhow::Result<()> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var("CLB_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env().context("read the log filter in CLB_LOG")?)
        .with_writer(std::io::stderr)
        // It would tell of them on standard error, and panic if nobody reads that any more.
        .log_internal_errors(false)
        .with_ansi(stderr_color() == Color::Always)
        .with_target(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
