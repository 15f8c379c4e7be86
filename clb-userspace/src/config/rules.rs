//! The binding rules: from the configuration as written to the configuration as meant.
//!
//! A rule that needs a value which is wrong or unknown stays silent: that value has its own report already.

mod bindings;
mod listeners;
mod topology;

use xxhash_rust::xxh3::xxh3_64;

use self::topology::Topology;
use super::{
    model::Config,
    problem::{Problem, Severity},
    written::File,
};

/// Checks all rules; the configuration as meant if no error was found, by now or before.
pub fn check(file: &File<'_>, problems: &mut Vec<Problem>) -> Option<Config> {
    let topology = Topology::check(file, problems);
    let listeners = listeners::check(file, &topology, problems);
    if problems.iter().any(|problem| problem.code.severity() == Severity::Error) {
        return None;
    }
    let load_balancer = &file.load_balancer;
    let id = load_balancer.id.value()?;
    let mut interfaces: Vec<String> = Vec::new();
    for &interface in &load_balancer.interfaces {
        if !interfaces.iter().any(|earlier| earlier == interface) {
            interfaces.push(interface.into());
        }
    }
    let hash_seed = load_balancer.hash_seed.or(xxh3_64(id.as_bytes()))?;
    Some(Config { id: id.into(), interfaces, hash_seed, listeners })
}
