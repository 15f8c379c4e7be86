//! The rules for one backend by itself: what it binds exists, may be bound, and is in the load balancer's VPC.

use std::net::IpAddr;

use super::{
    super::{
        cloud::Role,
        model::BackendKind,
        problem::{self, Code, Place, Problem},
        written::{Eni, Field, Given, LoadBalancer, Target},
    },
    topology::{Found, Owner, PrimaryEni, Topology},
};

/// What a backend stands for. Parts that a mistake hides are missing.
pub struct Bound<'f> {
    /// Of the value of `cvm` or `eni`.
    pub place: Place,
    pub kind: BackendKind,
    pub address: IpAddr,
    pub cvm: Option<&'f str>,
    pub eni: Option<&'f str>,
}

/// Finds what a backend binds, and reports what forbids it. `None` if the address cannot be known.
pub fn bind<'f>(
    target: Given<Target<'f>>,
    load_balancer: &LoadBalancer<'f>,
    topology: &Topology<'f>,
    problems: &mut problem::Collected,
) -> Option<Bound<'f>> {
    let place = target.place;
    let mut binding = Binding { place, load_balancer, topology, problems };
    match target.value {
        Target::Cvm(id) => binding.cvm(id),
        Target::Eni(address) => binding.eni(address),
    }
}

struct Binding<'b, 'f> {
    place: Place,
    load_balancer: &'b LoadBalancer<'f>,
    topology: &'b Topology<'f>,
    problems: &'b mut problem::Collected,
}

impl<'f> Binding<'_, 'f> {
    fn cvm(&mut self, id: &'f str) -> Option<Bound<'f>> {
        let cvm = match self.topology.cvm(id) {
            Found::Is(cvm) => cvm,
            Found::Nothing => {
                let problem = self.topology.unknown_cvm(Given { value: id, place: self.place });
                self.problems.push(problem);
                return None;
            }
            Found::Unknown => return None,
        };
        if !self.topology.is_vpc_disputed(cvm) {
            self.same_vpc(&format_args!("the CVM `{id}`"), self.topology.cvm_at(cvm).vpc);
        }
        match self.topology.primary_eni(cvm) {
            PrimaryEni::Is(eni) => Some(Bound {
                place: self.place,
                kind: BackendKind::Cvm,
                address: eni.primary_ip.value()?,
                cvm: Some(id),
                eni: eni.id.value(),
            }),
            PrimaryEni::None => {
                let message = format!("the CVM `{id}` has no primary ENI, so there is no address to bind");
                let help = format!("add its primary ENI to `enis`, with `role: primary` and `attached_to: {id}`");
                let mut problem = Problem::new(Code::CvmWithoutPrimaryEni, self.place, message, help);
                if let Some(id) = self.topology.cvm_at(cvm).id.given() {
                    problem = problem.label(id.place, "this CVM");
                }
                self.problems.push(problem);
                None
            }
            PrimaryEni::Unknown => None,
        }
    }

    fn eni(&mut self, address: IpAddr) -> Option<Bound<'f>> {
        let owner = match self.topology.owner(address) {
            Found::Is(owner) => owner,
            Found::Nothing => {
                let message = format!("no ENI has the address {address}");
                let help = "add it to the `secondary_ips` of its ENI, or bind an address that an ENI has";
                self.problems.push(Problem::new(Code::UnknownAddress, self.place, message, help));
                return None;
            }
            Found::Unknown => return None,
        };
        let eni = owner.eni;
        let cvm = self.attached_cvm(eni, address);
        self.not_a_primary_ip(owner);
        if cvm.is_none_or(|cvm| !self.vpcs_differ(eni, cvm)) {
            self.same_vpc(&format_args!("the ENI of {address}"), eni.vpc);
        }
        Some(Bound {
            place: self.place,
            kind: BackendKind::Eni,
            address,
            cvm: cvm.and_then(|cvm| self.topology.cvm_at(cvm).id.value()),
            eni: eni.id.value(),
        })
    }

    /// The CVM that the ENI is attached to.
    fn attached_cvm(&mut self, eni: &Eni<'f>, address: IpAddr) -> Option<usize> {
        match eni.attached_to {
            Field::Given(id) => match self.topology.cvm(id.value) {
                Found::Is(cvm) => Some(cvm),
                Found::Nothing | Found::Unknown => None,
            },
            // A primary ENI without a CVM is reported where it stands.
            Field::Absent if eni.role.value() == Some(Role::Secondary) => {
                let message = format!("the ENI of {address} is not attached to a CVM");
                let help = "attach it before it is bound: add `attached_to: ID` to the ENI";
                let mut problem = Problem::new(Code::EniNotAttached, self.place, message, help);
                if let Some(id) = eni.id.given() {
                    problem = problem.label(id.place, "this ENI");
                }
                self.problems.push(problem);
                None
            }
            Field::Absent | Field::Wrong => None,
        }
    }

    fn not_a_primary_ip(&mut self, owner: Owner<'f>) {
        if !owner.is_primary_ip || owner.eni.role.value() != Some(Role::Primary) {
            return;
        }
        let address = owner.address.value;
        let message = format!("{address} is the primary private IP of a primary ENI: it is bound as its CVM");
        let help = match owner.eni.attached_to.value() {
            Some(id) => format!("bind it as `cvm: {id}`"),
            None => "bind it as `cvm: ID`".into(),
        };
        self.problems.push(
            Problem::new(Code::PrimaryIpBoundAsEni, self.place, message, help)
                .label(owner.address.place, "the primary private IP"),
        );
    }

    fn vpcs_differ(&self, eni: &Eni<'_>, cvm: usize) -> bool {
        let of_cvm = self.topology.cvm_at(cvm).vpc.value();
        eni.vpc.value().is_some_and(|vpc| of_cvm.is_some_and(|of_cvm| vpc != of_cvm))
    }

    fn same_vpc(&mut self, what: &dyn std::fmt::Display, vpc: Field<&str>) {
        let (Some(vpc), Some(expected)) = (vpc.given(), self.load_balancer.vpc.given()) else { return };
        if vpc.value != expected.value {
            let message = format!("{what} is in the VPC `{}`, the load balancer in `{}`", vpc.value, expected.value);
            let help = format!("bind a CVM or ENI of the VPC `{}`", expected.value);
            self.problems.push(
                Problem::new(Code::VpcMismatch, self.place, message, help)
                    .label(vpc.place, format!("in the VPC `{}`", vpc.value))
                    .label(expected.place, format!("the load balancer is in the VPC `{}`", expected.value)),
            );
        }
    }
}
