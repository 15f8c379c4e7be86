//! `clb bindable`: what may be bound, as the cloud's own dialog lists it.

use std::{path::PathBuf, process::ExitCode};

use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::{COULD_NOT_RUN, Format, plan::refused, print, stderr_color, tell};
use crate::config::{self, BackendKind, Candidate, Config, Forbidden, nearest};

/// List what backends may bind
///
/// Each address with its CVM, ENI and zone, and the listeners that have it already. A CVM is bound by its id, which is the
/// primary private IP of its primary ENI; every other private IP is bound by itself. Exit status: 0 listed, 1 the file has
/// errors, 2 it could not be read, or has no such listener.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb bindable config/demo.yaml --as eni --listener tcp-nat")]
pub struct BindableArguments {
    /// The configuration file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only what is bound in this way
    #[arg(long = "as", value_enum, value_name = "KIND")]
    kind: Option<BindAs>,
    /// What this listener can have, and whether it has it already
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Also list what may not be bound, with the code of the rule that forbids it
    #[arg(long)]
    all: bool,
    /// How to show the list
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum BindAs {
    /// CVMs, by id
    Cvm,
    /// Addresses of ENIs
    Eni,
}

pub fn bindable(arguments: &BindableArguments) -> anyhow::Result<ExitCode> {
    let BindableArguments { file, kind, listener, all, format } = arguments;
    let (loaded, mut candidates) = match config::read_candidates(file) {
        Ok(read) => read,
        Err(error) => return refused(file, error),
    };
    tell(&loaded.warnings.render(stderr_color()));
    if let Some(name) = listener {
        let Some(listener) = loaded.config.listeners.iter().find(|listener| listener.name == *name) else {
            tell(&no_listener(&loaded.config, name));
            return Ok(ExitCode::from(COULD_NOT_RUN));
        };
        for candidate in &mut candidates {
            candidate.restrict_to(listener);
        }
    }
    candidates.retain(|candidate| {
        let is_wanted = match kind {
            None => true,
            Some(BindAs::Cvm) => candidate.kind == BackendKind::Cvm,
            Some(BindAs::Eni) => candidate.kind == BackendKind::Eni,
        };
        is_wanted && (*all || candidate.forbidden.is_none())
    });
    let bound: Vec<_> = candidates
        .iter()
        .map(|candidate| (candidate, bound_to(&loaded.config, listener.as_deref(), candidate)))
        .collect();
    print(&match format {
        Format::Text => render(&bound, *all),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&as_json(&bound))?),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where an address is bound already.
struct Bound<'c> {
    listener: &'c str,
    port: u16,
}

fn bound_to<'c>(config: &'c Config, only: Option<&str>, candidate: &Candidate) -> Vec<Bound<'c>> {
    let listeners = config.listeners.iter().filter(|listener| only.is_none_or(|only| listener.name == only));
    let backends = listeners.flat_map(|listener| listener.backends.iter().map(move |backend| (listener, backend)));
    backends
        .filter(|(_, backend)| Some(backend.address) == candidate.address && backend.kind == candidate.kind)
        .map(|(listener, backend)| Bound { listener: &listener.name, port: backend.port })
        .collect()
}

fn no_listener(config: &Config, name: &str) -> String {
    let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("there is a listener with a similar name: `{near}`"),
        None if names.is_empty() => "the file has no listeners: leave `--listener` out".into(),
        None => format!("the file has the listeners {}", names.join(", ")),
    };
    format!("error: there is no listener `{name}`\nhelp: {help}\n")
}

fn render(candidates: &[(&Candidate, Vec<Bound<'_>>)], all: bool) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header = vec!["as", "address", "CVM", "ENI", "zone", "bound to"];
    if all {
        header.push("forbidden by");
    }
    table.set_header(header);
    for (Candidate { kind, address, cvm, eni, zone, forbidden }, bound) in candidates {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let bound: Vec<_> = bound.iter().map(|Bound { listener, port }| format!("{listener} (port {port})")).collect();
        let mut row = vec![
            kind.name().to_owned(),
            address.map_or_else(|| "-".into(), |address| address.to_string()),
            or_none(cvm),
            or_none(eni),
            zone.clone(),
            if bound.is_empty() { "-".into() } else { bound.join(", ") },
        ];
        if all {
            row.push(forbidden.as_ref().map_or("-", |forbidden| forbidden.code.name()).to_owned());
        }
        table.add_row(row);
    }
    format!("{}\n", table.trim_fmt())
}

fn as_json(candidates: &[(&Candidate, Vec<Bound<'_>>)]) -> Value {
    let object = |(candidate, bound): &(&Candidate, Vec<Bound<'_>>)| {
        let Candidate { kind, address, cvm, eni, zone, forbidden } = candidate;
        let forbidden =
            forbidden.as_ref().map(|Forbidden { code, message }| json!({"code": code.name(), "message": message}));
        let bound: Vec<_> =
            bound.iter().map(|Bound { listener, port }| json!({"listener": listener, "port": port})).collect();
        json!({
            "as": kind.name(), "address": address, "cvm": cvm, "eni": eni, "zone": zone, "bound_to": bound,
            "forbidden": forbidden,
        })
    };
    candidates.iter().map(object).collect()
}
