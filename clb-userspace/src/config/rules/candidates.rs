//! What of a file may be bound, and what may not: the rules for one backend, asked of every CVM and every address.
//!
//! The rules themselves are those of `bindings.rs`; nothing is decided here.

use std::net::IpAddr;

use super::{
    super::{
        model::{BackendKind, Listener},
        problem::{self, Code, Place},
        written::{Eni, File, Given, Target},
    },
    bindings::bind,
    topology::{Found, PrimaryEni, Topology},
};

/// Something that a backend could name, and whether it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As what it would be bound.
    pub kind: BackendKind,
    /// The private IP; none if a CVM has no primary ENI.
    pub address: Option<IpAddr>,
    /// The id of the CVM that it is on; none if the ENI is not attached.
    pub cvm: Option<String>,
    /// The id of the ENI that has the address.
    pub eni: Option<String>,
    /// The zone.
    pub zone: String,
    /// The rule that forbids it, and how it would be told.
    pub forbidden: Option<Forbidden>,
}

/// Why something may not be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// The rule.
    pub code: Code,
    /// What is wrong.
    pub message: String,
}

impl Candidate {
    /// Forbids also what this listener cannot have.
    pub fn restrict_to(&mut self, listener: &Listener) {
        let Some(address) = self.address else { return };
        if self.forbidden.is_none() && !listener.forwarding.can_reach(listener.vip, address) {
            let message =
                format!("`{}` cannot send packets for {} to {address}", listener.forwarding.name(), listener.vip);
            self.forbidden = Some(Forbidden { code: Code::AddressFamily, message });
        }
    }
}

/// All candidates of a file that keeps the rules: CVMs, then the addresses of ENIs, each in the order of the file.
pub fn candidates(file: &File<'_>) -> Vec<Candidate> {
    let mut found =
        Candidates { file, topology: Topology::check(file, &mut problem::Collected::default()), list: Vec::new() };
    for cvm in &file.cvms.items {
        if let (Some(id), Some(zone)) = (cvm.id.given(), cvm.zone.value()) {
            let Found::Is(index) = found.topology.cvm(id.value) else { continue };
            let eni = match found.topology.primary_eni(index) {
                PrimaryEni::Is(eni) => Some(eni),
                PrimaryEni::None | PrimaryEni::Unknown => None,
            };
            found.add(Target::Cvm(id.value), id.place, eni, Some(id.value), zone);
        }
    }
    for eni in &file.enis.items {
        let addresses = eni.primary_ip.given().into_iter().chain(eni.secondary_ips.items.iter().copied());
        for address in addresses {
            if let Some(zone) = eni.zone.value() {
                found.add(Target::Eni(address.value), address.place, Some(eni), eni.attached_to.value(), zone);
            }
        }
    }
    found.list
}

struct Candidates<'f> {
    file: &'f File<'f>,
    topology: Topology<'f>,
    list: Vec<Candidate>,
}

impl<'f> Candidates<'f> {
    fn add(&mut self, target: Target<'f>, place: Place, eni: Option<&Eni<'f>>, cvm: Option<&str>, zone: &str) {
        let mut problems = problem::Collected::default();
        let given = Given { value: target, place };
        bind(given, &self.file.load_balancer, &self.topology, &mut problems);
        let (kind, address) = match target {
            Target::Cvm(_) => (BackendKind::Cvm, eni.and_then(|eni| eni.primary_ip.value())),
            Target::Eni(address) => (BackendKind::Eni, Some(address)),
        };
        self.list.push(Candidate {
            kind,
            address,
            cvm: cvm.map(Into::into),
            eni: eni.and_then(|eni| eni.id.value()).map(Into::into),
            zone: zone.into(),
            forbidden: problems
                .into_problems()
                .into_iter()
                .next()
                .map(|problem| Forbidden { code: problem.code, message: problem.message }),
        });
    }
}
