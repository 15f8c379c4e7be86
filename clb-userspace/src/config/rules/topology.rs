//! The rules for CVMs and ENIs, and what the bindings need to know of them.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::super::{
    cloud::Role,
    nearest::nearest,
    problem::{self, Code, Problem},
    written::{Cvm, Eni, Field, File, Given},
};

/// The CVMs and ENIs of a file, found by what bindings name them with.
pub struct Topology<'f> {
    cvms: &'f [Cvm<'f>],
    enis: &'f [Eni<'f>],
    cvm_by_id: HashMap<&'f str, usize>,
    owner_by_address: HashMap<IpAddr, Owner<'f>>,
    /// Whether every id of a CVM could be read. If not, a name that is not found may be one of the others.
    knows_all_cvms: bool,
    /// Whether every address could be read.
    knows_all_addresses: bool,
    /// For each CVM.
    attached: Vec<Attached>,
    /// The VPCs and zones of primary ENIs of which it is not known whose they are.
    lost_primaries: HashSet<(Option<&'f str>, Option<&'f str>)>,
    /// Whether there may be ENIs that could not be read at all.
    knows_all_enis: bool,
}

/// The ENI that has an address.
#[derive(Clone, Copy)]
pub struct Owner<'f> {
    pub eni: &'f Eni<'f>,
    pub address: Given<IpAddr>,
    pub is_primary_ip: bool,
}

/// What is attached to a CVM.
#[derive(Clone, Copy, Default)]
struct Attached {
    /// The first primary ENI.
    primary: Option<usize>,
    /// An ENI's role is unknown.
    has_unknown_role: bool,
    /// An ENI is in another VPC, and it is reported.
    is_vpc_disputed: bool,
}

/// The primary ENI of a CVM.
pub enum PrimaryEni<'f> {
    Is(&'f Eni<'f>),
    None,
    /// A mistake elsewhere hides it.
    Unknown,
}

/// What a name or address stands for.
pub enum Found<T> {
    Is(T),
    /// Nothing in the file.
    Nothing,
    /// A mistake elsewhere hides it.
    Unknown,
}

impl<'f> Topology<'f> {
    /// Checks all rules that need no listener.
    pub fn check(file: &'f File<'f>, problems: &mut problem::Collected) -> Self {
        let cvms = &file.cvms.items;
        let enis = &file.enis.items;
        let has_id = |cvm: &Cvm<'_>| cvm.id.value().is_some();
        let has_addresses = |eni: &Eni<'_>| eni.primary_ip.value().is_some() && eni.secondary_ips.is_complete;
        let mut topology = Self {
            cvms,
            enis,
            cvm_by_id: unique(cvms.iter().map(|cvm| cvm.id), "CVM", problems),
            owner_by_address: HashMap::new(),
            knows_all_cvms: file.cvms.is_complete && cvms.iter().all(has_id),
            knows_all_addresses: file.enis.is_complete && enis.iter().all(has_addresses),
            attached: vec![Attached::default(); cvms.len()],
            lost_primaries: HashSet::new(),
            knows_all_enis: file.enis.is_complete,
        };
        unique(enis.iter().map(|eni| eni.id), "ENI", problems);
        for (index, eni) in enis.iter().enumerate() {
            if problems.is_full() {
                break;
            }
            topology.addresses(eni, problems);
            topology.attachment(index, eni, problems);
        }
        topology
    }

    /// The CVM with this id.
    pub fn cvm(&self, id: &str) -> Found<usize> {
        match self.cvm_by_id.get(id) {
            Some(&index) => Found::Is(index),
            None if self.knows_all_cvms => Found::Nothing,
            None => Found::Unknown,
        }
    }

    /// The CVM with this index.
    pub fn cvm_at(&self, index: usize) -> &'f Cvm<'f> {
        &self.cvms[index]
    }

    /// The ENI that has this address.
    pub fn owner(&self, address: IpAddr) -> Found<Owner<'f>> {
        match self.owner_by_address.get(&address) {
            Some(&owner) => Found::Is(owner),
            None if self.knows_all_addresses => Found::Nothing,
            None => Found::Unknown,
        }
    }

    /// The primary ENI of a CVM.
    pub fn primary_eni(&self, cvm: usize) -> PrimaryEni<'f> {
        let attached = self.attached[cvm];
        let place = (self.cvms[cvm].vpc.value(), self.cvms[cvm].zone.value());
        match attached.primary {
            Some(index) => PrimaryEni::Is(&self.enis[index]),
            None if attached.has_unknown_role || !self.knows_all_enis => PrimaryEni::Unknown,
            None if self.lost_primaries.contains(&place) => PrimaryEni::Unknown,
            None => PrimaryEni::None,
        }
    }

    /// Whether a mismatch between the CVM's VPC and an ENI's is reported: either may be the wrong one.
    pub fn is_vpc_disputed(&self, cvm: usize) -> bool {
        self.attached[cvm].is_vpc_disputed
    }

    /// The report of a name that is no CVM's.
    pub fn unknown_cvm(&self, id: Given<&str>) -> Problem {
        let help = match nearest(id.value, self.cvms.iter().filter_map(|cvm| cvm.id.value())) {
            Some(near) => format!("there is a CVM with a similar id: `{near}`"),
            None => format!("add a CVM with the id `{}` to `cvms`, or name one that is there", id.value),
        };
        Problem::new(Code::UnknownCvm, id.place, format!("there is no CVM `{}`", id.value), help)
    }

    fn addresses(&mut self, eni: &'f Eni<'f>, problems: &mut problem::Collected) {
        let primary = eni.primary_ip.given().map(|address| Owner { eni, address, is_primary_ip: true });
        let secondary = eni.secondary_ips.items.iter();
        let secondary = secondary.map(|&address| Owner { eni, address, is_primary_ip: false });
        for owner in primary.into_iter().chain(secondary) {
            let address = owner.address;
            let first = *self.owner_by_address.entry(address.value).or_insert(owner);
            if first.address.place != address.place {
                let message = format!("the private IP {} is given twice", address.value);
                let help = match first.eni.id.value() {
                    Some(id) => format!("remove it here or from the ENI `{id}`: an address belongs to one ENI, once"),
                    None => "remove one of the two: an address belongs to one ENI, once".into(),
                };
                problems.push(
                    Problem::new(Code::DuplicateAddress, address.place, message, help)
                        .label(first.address.place, "first given here"),
                );
            }
        }
    }

    fn attachment(&mut self, index: usize, eni: &'f Eni<'f>, problems: &mut problem::Collected) {
        let role = eni.role.given();
        let is_primary = role.is_some_and(|role| role.value == Role::Primary);
        let cvm = match eni.attached_to {
            Field::Given(id) => match self.cvm(id.value) {
                Found::Is(cvm) => Some((cvm, id)),
                Found::Nothing => {
                    problems.push(self.unknown_cvm(id));
                    None
                }
                Found::Unknown => None,
            },
            Field::Absent => {
                if let Some(Given { value: Role::Primary, place }) = role {
                    let help = "add `attached_to: ID` with the CVM that it was born with, or write `role: secondary`";
                    let message = "a primary ENI is attached to its CVM and cannot be unbound from it";
                    problems.push(Problem::new(Code::PrimaryEniDetached, place, message, help));
                }
                None
            }
            Field::Wrong => None,
        };
        let Some((cvm, id)) = cvm else {
            if is_primary || (role.is_none() && !matches!(eni.attached_to, Field::Absent)) {
                self.lost_primaries.insert((eni.vpc.value(), eni.zone.value()));
            }
            return;
        };
        if role.is_none() {
            self.attached[cvm].has_unknown_role = true;
        }
        if is_primary {
            self.primary(index, cvm, id, problems);
        }
        self.same_zone(eni, cvm, problems);
        self.same_vpc(eni, cvm, problems);
    }

    fn primary(&mut self, index: usize, cvm: usize, id: Given<&str>, problems: &mut problem::Collected) {
        let Some(first) = self.attached[cvm].primary else {
            self.attached[cvm].primary = Some(index);
            return;
        };
        let message = format!("the CVM `{}` has a primary ENI already", id.value);
        let help = "a CVM has one primary ENI: write `role: secondary`, or attach this one to its own CVM";
        let mut problem = Problem::new(Code::SeveralPrimaryEnis, id.place, message, help);
        if let Some(first) = self.enis[first].attached_to.given() {
            problem = problem.label(first.place, "its primary ENI is attached here");
        }
        problems.push(problem);
    }

    fn same_zone(&self, eni: &Eni<'_>, cvm: usize, problems: &mut problem::Collected) {
        let (Some(zone), Some(of_cvm)) = (eni.zone.given(), self.cvms[cvm].zone.given()) else { return };
        if zone.value != of_cvm.value {
            let message = format!("an ENI in the zone `{}` on a CVM in the zone `{}`", zone.value, of_cvm.value);
            let help = format!("write `zone: {}`, or attach the ENI to a CVM of its zone", of_cvm.value);
            let label = format!("attached to this CVM, which is in the zone `{}`", of_cvm.value);
            problems.push(Problem::new(Code::ZoneMismatch, zone.place, message, help).label(of_cvm.place, label));
        }
    }

    fn same_vpc(&mut self, eni: &Eni<'_>, cvm: usize, problems: &mut problem::Collected) {
        let (Some(vpc), Some(of_cvm)) = (eni.vpc.given(), self.cvms[cvm].vpc.given()) else { return };
        if vpc.value != of_cvm.value {
            self.attached[cvm].is_vpc_disputed = true;
            let message = format!("an ENI in the VPC `{}` on a CVM in the VPC `{}`", vpc.value, of_cvm.value);
            let help = format!("write `vpc: {}`, or attach the ENI to a CVM of its VPC", of_cvm.value);
            let label = format!("attached to this CVM, which is in the VPC `{}`", of_cvm.value);
            problems.push(Problem::new(Code::VpcMismatch, vpc.place, message, help).label(of_cvm.place, label));
        }
    }
}

/// The index of each id. Reports the ids that stand again.
pub fn unique<'f>(
    ids: impl Iterator<Item = Field<&'f str>>,
    of_what: &str,
    problems: &mut problem::Collected,
) -> HashMap<&'f str, usize> {
    let mut first = HashMap::new();
    let mut index_by_id = HashMap::new();
    for (index, id) in ids.enumerate() {
        let Some(id) = id.given() else { continue };
        let place = *first.entry(id.value).or_insert(id.place);
        index_by_id.entry(id.value).or_insert(index);
        if place != id.place {
            let name = if of_what == "listener" { "name" } else { "id" };
            let message = format!("two {of_what}s have the {name} `{}`", id.value);
            let help = format!("give one of them another {name}");
            problems.push(Problem::new(Code::DuplicateId, id.place, message, help).label(place, "first used here"));
        }
    }
    index_by_id
}
