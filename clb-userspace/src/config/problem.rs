//! What can be wrong with a configuration file: the closed table of problem codes, and one problem with its places.
//!
//! The table is the only list of codes: messages, JSON and the documentation take name, severity and rule from it.

use serde::Serialize;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; a person should look.
    Warning,
}

macro_rules! codes {
    ($($severity:ident $variant:ident $name:literal $rule:literal)*) => {
        /// The code of a problem: one per binding rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $rule] $variant,)*
        }

        impl Code {
            /// All codes, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as it is printed.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether a file with this problem is refused.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// The rule that the problem breaks, in one line.
            pub const fn rule(self) -> &'static str {
                match self { $(Self::$variant => $rule,)* }
            }
        }
    };
}

codes! {
    Error Syntax "syntax" "The file is YAML, and each value has the right type."
    Error UnknownKey "unknown-key" "There is no unknown key."
    Error MissingKey "missing-key" "Every required key is there."
    Error UnsupportedVersion "unsupported-version" "`version` is 1."
    Error DuplicateId "duplicate-id" "The ids of CVMs, the ids of ENIs and the names of listeners are unique."
    Error DuplicateAddress "duplicate-address" "A private IP belongs to one ENI, once."
    Error UnknownCvm "unknown-cvm" "`attached_to` and `cvm` name a CVM of the file."
    Error UnknownAddress "unknown-address" "`eni` is an address of an ENI of the file."
    Error BackendKind "backend-kind" "A backend has exactly one of `cvm` and `eni`."
    Error CvmWithoutPrimaryEni "cvm-without-primary-eni" "A bound CVM has a primary ENI."
    Error SeveralPrimaryEnis "several-primary-enis" "A CVM has at most one primary ENI."
    Error PrimaryEniDetached "primary-eni-detached" "A primary ENI is attached: it cannot be unbound from its CVM."
    Error EniNotAttached "eni-not-attached" "An ENI is attached to a CVM before it is bound."
    Error ZoneMismatch "zone-mismatch" "An ENI is in the zone of the CVM that it is attached to."
    Error VpcMismatch "vpc-mismatch" "An ENI is in the VPC of its CVM; a bound CVM or ENI is in the load balancer's VPC."
    Error PrimaryIpBoundAsEni "primary-ip-bound-as-eni" "`eni` is not the primary private IP of a primary ENI."
    Error DuplicateBackend "duplicate-backend" "One (IP, port) stands once in a listener."
    Error WeightRange "weight-range" "A weight is an integer from 0 to 100."
    Error PortRange "port-range" "A port is from 1 to 65535."
    Error DuplicateListener "duplicate-listener" "There is one listener for a (VIP, protocol, port)."
    Error VipIsBackend "vip-is-backend" "A VIP is no private IP of an ENI."
    Error UnsupportedProtocol "unsupported-protocol" "A listener's protocol is `tcp` or `udp`."
    Error DsrPort "dsr-port" "In `dsr`, `ipip` and `gue` the backend's port equals the listener's."
    Error AddressFamily "address-family" "VIP and backend are of one family in `dsr`, `nat` and `full_nat`."
    Error NatSharedBackend "nat-shared-backend" "In `nat`, one (backend IP, port, protocol) belongs to one listener only."
    Error TunnelSource "tunnel-source" "`tunnel_sources` has one prefix at most of each family: IPv4 with a length of 8 to 32, IPv6 with 64 to 128."
    Error SourceAddress "source-address" "`source_addresses` are at most 64 of each family, each once, and none is a VIP or a private IP of an ENI."
    Error NoSourceAddress "no-source-address" "A listener in `full_nat` has a source address of its family."
    Error HealthCheckRange "health-check-range" "Health checks: interval 2s..300s, timeout 2s..60s and below the interval, thresholds 2..10; a path, host or payload that can be sent."
    Error HealthCheckType "health-check-type" "Health checks are `tcp` or `http` for TCP listeners, `udp` or `icmp` for UDP listeners, or `none`; each type has its own keys."
    Error DrainRange "drain-range" "`drain` is 0s..3600s."
    Error IdleTimeoutRange "idle-timeout-range" "`idle_timeout` is 10s..1980s."
    Error SlotsRange "slots-range" "`slots` is one of 1021, 4093, 16381, 65537, 131071, 655373, and at least 10 times the listener's backends."
    Error EniMovedZone "eni-moved-zone" "A change moves an ENI only between CVMs of its own VPC and zone."
    Error PrimaryEniMoved "primary-eni-moved" "A change leaves a primary ENI with its CVM."
    Warning AllWeightsZero "all-weights-zero" "No backend of a listener takes new connections."
    Warning NoBackends "no-backends" "A listener has no backends."
    Warning BeyondDefaultQuota "beyond-default-quota" "More than 50 listeners, or 100 backends in one: above the cloud's default quota."
}

/// Where something stands in the file, as byte offsets into its text.
///
/// What is reached through an alias (`*name`) stands at the alias; `written` is where its text begins, at the anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub start: u32,
    pub end: u32,
    pub written: u32,
}

impl Place {
    pub fn new(start: usize, end: usize) -> Self {
        // Files are smaller than 4 GiB: `document::MAX_FILE_BYTES`.
        Self { start: start as u32, end: end.max(start) as u32, written: start as u32 }
    }

    pub fn is_alias(self) -> bool {
        self.start != self.written
    }
}

/// One broken rule: what, where, the other places that matter, and what to do.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub code: Code,
    pub message: String,
    pub place: Place,
    pub labels: Vec<(Place, String)>,
    pub help: String,
}

impl Problem {
    pub fn new(code: Code, place: Place, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: printable(message.into()), place, labels: Vec::new(), help: printable(help.into()) }
    }

    pub fn label(mut self, place: Place, text: impl Into<String>) -> Self {
        self.labels.push((place, printable(text.into())));
        self
    }
}

/// What was found. A hostile file has millions of problems, and nobody reads them: both severities have a bound.
#[derive(Debug, Default)]
pub(super) struct Collected {
    problems: Vec<Problem>,
    errors: usize,
    warnings: usize,
}

impl Collected {
    /// How many errors, and how many warnings, are kept.
    const MAX_EACH: usize = 1_000;

    /// Keeps the problem. In the place of the first that is too many stands that there are more.
    pub fn push(&mut self, mut problem: Problem) {
        let count = match problem.code.severity() {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > Self::MAX_EACH + 1 {
            return;
        }
        if *count > Self::MAX_EACH {
            let message = format!("there are more than {} problems; from here on they are not shown", Self::MAX_EACH);
            problem = Problem::new(problem.code, problem.place, message, "mend those that are shown, and check again");
        }
        self.problems.push(problem);
    }

    /// Whether the file is refused.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether a further error would not be shown, so that there is no use in looking for it.
    pub fn is_full(&self) -> bool {
        self.errors > Self::MAX_EACH
    }

    /// What is shown, in the order in which it was found.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// Names from the file must not act on a terminal: control characters and those that turn the direction of writing
/// are shown by their codes.
fn printable(text: String) -> String {
    let acts = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(acts) {
        return text;
    }
    let shown =
        |character: char| if acts(character) { character.escape_unicode().to_string() } else { character.into() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_full_of_problems_keeps_a_bounded_number_of_each_severity() {
        let mut found = Collected::default();
        let problem = |code| Problem::new(code, Place::new(0, 1), "first", "help");
        (0..5_000).for_each(|_| found.push(problem(Code::NoBackends)));
        assert!(!found.has_errors() && !found.is_full(), "warnings refuse nothing");
        (0..5_000).for_each(|_| found.push(problem(Code::Syntax)));
        assert!(found.has_errors() && found.is_full(), "errors are seen behind many warnings");
        let problems = found.into_problems();
        assert_eq!(problems.len(), 2 * (Collected::MAX_EACH + 1));
        let notes: Vec<_> = problems.iter().filter(|problem| problem.message != "first").collect();
        assert_eq!(notes.iter().map(|note| note.code).collect::<Vec<_>>(), [Code::NoBackends, Code::Syntax]);
        assert!(notes.iter().all(|note| note.message.contains("more than 1000 problems")), "{notes:?}");
    }
}
