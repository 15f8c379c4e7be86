//! The rules for a change: what cannot happen to an ENI between the configuration in force and a new file.
//!
//! ENIs are known by their ids. One that is new, or gone with its CVM, changes nothing. A primary ENI cannot move at all,
//! so of one that did, only that is said.

use std::collections::{HashMap, HashSet};

use super::{
    super::{
        cloud::{self, Role},
        model::Config,
        problem::{Code, Collected, Problem},
        written::{Eni, Field, File, Given},
    },
    topology::{Found, Topology},
};

/// Compares every ENI of the file with the one of the same id before.
pub fn check(file: &File<'_>, topology: &Topology<'_>, before: &Config, problems: &mut Collected) {
    let before: HashMap<&str, &cloud::Eni> = before.enis.iter().map(|eni| (eni.id.as_str(), eni)).collect();
    let mut seen = HashSet::new();
    for eni in &file.enis.items {
        // Of two ENIs with one id, which is a problem of its own, the first is meant.
        let Some(id) = eni.id.value().filter(|id| seen.insert(*id)) else { continue };
        if let Some(before) = before.get(id) {
            match before.role {
                Role::Primary => stays(eni, before, problems),
                Role::Secondary => moves_within_zone(eni, before, topology, problems),
            }
        }
    }
}

fn stays(eni: &Eni<'_>, before: &cloud::Eni, problems: &mut Collected) {
    let Some(was) = &before.attached_to else { return };
    let place = match (eni.attached_to, eni.role.given()) {
        (Field::Given(now), _) if now.value != was => now.place,
        // A primary ENI without a CVM is reported without looking back.
        (Field::Absent, Some(Given { value: Role::Secondary, place })) => place,
        _ => return,
    };
    let message = format!("the primary ENI `{}` was attached to the CVM `{was}`, and cannot leave it", before.id);
    let help = format!("write `attached_to: {was}` and `role: primary`; a secondary ENI can be moved");
    problems.push(Problem::new(Code::PrimaryEniMoved, place, message, help));
}

fn moves_within_zone(eni: &Eni<'_>, before: &cloud::Eni, topology: &Topology<'_>, problems: &mut Collected) {
    let Some(now) = eni.attached_to.given() else { return };
    let Found::Is(cvm) = topology.cvm(now.value) else { return };
    if before.attached_to.as_deref() == Some(now.value) {
        return;
    }
    let cvm = topology.cvm_at(cvm);
    let differs = |of_cvm: Field<&str>, was: &str| of_cvm.value().is_some_and(|of_cvm| of_cvm != was);
    let (what, was, of_cvm) = match () {
        () if differs(cvm.zone, &before.zone) => ("zone", &before.zone, cvm.zone),
        () if differs(cvm.vpc, &before.vpc) => ("VPC", &before.vpc, cvm.vpc),
        () => return,
    };
    let Some(of_cvm) = of_cvm.given() else { return };
    let message = format!("the ENI `{}` cannot move from the {what} `{was}` to `{}`", before.id, of_cvm.value);
    let help = match &before.attached_to {
        Some(cvm) => format!("attach it to a CVM of its own VPC and zone, as `{cvm}` was, or use another ENI"),
        None => "attach it to a CVM of its own VPC and zone, or use another ENI".into(),
    };
    let label = format!("this CVM is in the {what} `{}`", of_cvm.value);
    problems.push(Problem::new(Code::EniMovedZone, now.place, message, help).label(of_cvm.place, label));
}
