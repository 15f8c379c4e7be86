//! The binding rules: from the configuration as written to the configuration as meant.
//!
//! A rule that needs a value which is wrong or unknown stays silent: that value has its own report already.

mod bindings;
mod candidates;
mod changes;
mod health_checks;
mod listeners;
mod sources;
mod topology;

use xxhash_rust::xxh3::xxh3_64;

pub use self::candidates::{Candidate, Forbidden, candidates};
use self::topology::Topology;
use super::{
    cloud::{Cvm, Eni},
    model::Config,
    problem::Collected,
    written::{self, File},
};

/// The one that is registered for it.
const DEFAULT_GUE_PORT: u16 = 6080;
const DEFAULT_MAX_FLOWS: u32 = 1 << 18;

/// Checks all rules, those for a change against the configuration before; the configuration as meant if no error was
/// found, by now or before.
pub fn check(file: &File<'_>, before: Option<&Config>, problems: &mut Collected) -> Option<Config> {
    let topology = Topology::check(file, problems);
    if let Some(before) = before {
        changes::check(file, &topology, before, problems);
    }
    let listeners = listeners::check(file, &topology, problems);
    let tunnel_sources = sources::tunnels(file, problems);
    let source_addresses = sources::pool(file, &topology, problems);
    if problems.has_errors() {
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
    let mut cvms = file.cvms.items.iter().map(cvm).collect::<Option<Vec<_>>>()?;
    cvms.sort_by(|one, other| one.id.cmp(&other.id));
    let mut enis = file.enis.items.iter().map(eni).collect::<Option<Vec<_>>>()?;
    enis.sort_by(|one, other| one.id.cmp(&other.id));
    let vpc = load_balancer.vpc.value()?.into();
    Some(Config {
        id: id.into(),
        vpc,
        interfaces,
        hash_seed,
        tunnel_sources,
        gue_port: load_balancer.gue_port.or(DEFAULT_GUE_PORT)?,
        source_addresses,
        max_flows: load_balancer.max_flows.or(DEFAULT_MAX_FLOWS)?,
        cvms,
        enis,
        listeners,
    })
}

fn cvm(cvm: &written::Cvm<'_>) -> Option<Cvm> {
    Some(Cvm { id: cvm.id.value()?.into(), vpc: cvm.vpc.value()?.into(), zone: cvm.zone.value()?.into() })
}

fn eni(eni: &written::Eni<'_>) -> Option<Eni> {
    let mut secondary_ips: Vec<_> = eni.secondary_ips.items.iter().map(|address| address.value).collect();
    secondary_ips.sort_unstable();
    Some(Eni {
        id: eni.id.value()?.into(),
        role: eni.role.value()?,
        vpc: eni.vpc.value()?.into(),
        zone: eni.zone.value()?.into(),
        attached_to: eni.attached_to.value().map(Into::into),
        primary_ip: eni.primary_ip.value()?,
        secondary_ips,
    })
}
