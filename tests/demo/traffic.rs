//! The traffic: every listener in turn, with its progress.

use std::{
    fmt,
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clb_tests::{Flows, Outcome};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::{
    chance::real,
    cloud::{Cloud, Listener},
    topology::{Network, clients},
};

/// Opens so many flows to each listener; the outcomes are in the order of the listeners.
pub fn send(cloud: &Cloud, network: &Network, count: u32) -> Result<Vec<Outcome>> {
    let outcomes = cloud.listeners.iter().map(|listener| send_to(listener, network, count));
    outcomes.collect()
}

fn send_to(listener: &Listener, network: &Network, count: u32) -> Result<Outcome> {
    let Listener { name, vip, protocol, port, .. } = listener;
    let flows = Flows { target: (*vip, *port).into(), protocol: *protocol, sources: clients(*vip), count };
    let bar = progress(name, count);
    let outcome = flows.run(network.client(), || bar.inc(1)).with_context(|| format!("send to the listener {name}"))?;
    bar.finish_and_clear();
    let (answered, failed) = (outcome.answers.values().sum::<u64>(), outcome.failed());
    let seconds = outcome.elapsed.max(Duration::from_millis(1)).as_secs_f64();
    let rate = real(answered) / seconds;
    let given_up = if answered + failed < u64::from(count) { ", the rest given up" } else { "" };
    eprintln!("  {name:<12} {answered:>6} in {seconds:>5.2} s ({rate:>6.0}/s), {failed} failed{given_up}");
    Ok(outcome)
}

/// On a terminal, a bar; elsewhere the line at the end is enough.
fn progress(name: &str, count: u32) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {prefix:<12} {pos:>6} [{bar:30}] {rate}, {eta} left");
    let style = style.expect("the template is a constant").progress_chars("=> ").with_key(
        "rate",
        |state: &ProgressState, text: &mut dyn fmt::Write| {
            // The bar shows what it can; a rate that cannot be written is no reason to stop.
            let _ = write!(text, "{:.0}/s", state.per_sec());
        },
    );
    ProgressBar::new(count.into()).with_style(style).with_prefix(name.to_owned())
}
