//! Configuration files and all that clb says about them: one file at least for every problem code, the expected text
//! beside it, and input that nobody should write.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use clb_common::Protocol;
use clb_userspace::config::{
    Affinity, Backend, BackendKind, Code, Color, Config, Cvm, Eni, Forwarding, HealthCheck, HealthCheckKind, Listener,
    Loaded, OnUnhealthy, Problems, ReadError, Role, Severity, TunnelSources, load, load_change, read,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

/// A file that keeps all rules: every case of hostile or odd input is a change of it.
const GOOD: &str = include_str!("config/good.yaml");

fn fixtures() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut fixtures: Vec<_> = fs::read_dir(folder)
        .expect("the folder of fixtures")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("a fixture"))
        })
        .collect();
    fixtures.sort();
    fixtures
}

/// All that was found in a text.
fn problems(text: &[u8]) -> Problems {
    told(load("clb.yaml", text))
}

/// All that was found in a text, as a change of the good one where its name is that of a rule for a change.
fn fixture_problems(name: &str, text: &str) -> Problems {
    let is_change = [Code::EniMovedZone, Code::PrimaryEniMoved].iter().any(|code| name.starts_with(code.name()));
    if !is_change {
        return problems(text.as_bytes());
    }
    assert!(problems(text.as_bytes()).is_empty(), "{name} by itself is good");
    told(load_change(&config(GOOD), "clb.yaml", text.as_bytes()))
}

fn told(loaded: Result<Loaded, Problems>) -> Problems {
    match loaded {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(problems) => problems,
    }
}

/// Code, line and column of all that was found in a text.
fn found(text: &[u8]) -> Vec<(String, u64, u64)> {
    places(&problems(text))
}

fn places(problems: &Problems) -> Vec<(String, u64, u64)> {
    let problems = problems.to_json();
    let place = |problem: &Value, key: &str| problem[key].as_u64().expect("a number");
    let found = |problem: &Value| {
        (problem["code"].as_str().expect("a code").to_owned(), place(problem, "line"), place(problem, "column"))
    };
    problems.as_array().expect("an array").iter().map(found).collect()
}

fn is_warning(name: &str) -> bool {
    Code::ALL.iter().any(|code| code.name() == name && code.severity() == Severity::Warning)
}

/// Compares what is told with the file beside the fixtures.
fn assert_told(name: &str, problems: &Problems) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, problems.render(Color::Never)));
}

#[test]
fn every_problem_is_told_as_expected() {
    for (name, text) in fixtures() {
        assert_told(&name, &fixture_problems(&name, &text));
    }
}

/// A file is named for the one code that it is about, and a mistake is never reported as another one as well.
#[test]
fn every_code_has_a_file_with_this_code_only() {
    let mut without_file: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    for (name, text) in fixtures().into_iter().filter(|(name, _)| name != "good") {
        let code = Code::ALL
            .iter()
            .filter(|code| name.starts_with(code.name()))
            .max_by_key(|code| code.name().len())
            .unwrap_or_else(|| panic!("{name} is named for no code"));
        let problems = fixture_problems(&name, &text);
        let mut codes: BTreeSet<String> = places(&problems).into_iter().map(|(code, ..)| code).collect();
        if code.severity() == Severity::Error {
            codes.retain(|found| !is_warning(found));
        }
        assert_eq!(codes, BTreeSet::from([code.name().to_owned()]), "{name}");
        assert_eq!(problems.errors() > 0, code.severity() == Severity::Error, "{name}");
        without_file.remove(code.name());
    }
    assert_eq!(without_file, BTreeSet::new(), "codes without a file");
}

#[test]
fn every_example_keeps_all_rules_without_a_warning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let examples: Vec<_> =
        fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    let examples: Vec<_> =
        examples.into_iter().filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert!(examples.len() >= 3, "{examples:?}");
    for example in examples {
        match read(&example) {
            Ok(Loaded { warnings, .. }) => assert!(warnings.is_empty(), "{warnings:?}"),
            Err(error) => panic!("{error}: {error:?}"),
        }
    }
}

/// A change of the good file, and what is found then.
struct Case {
    name: &'static str,
    text: String,
    found: &'static [(&'static str, u64, u64)],
}

impl Case {
    fn check(self) {
        let Self { name, text, found: expected } = self;
        let found = found(text.as_bytes());
        let found: Vec<_> = found.iter().map(|(code, line, column)| (code.as_str(), *line, *column)).collect();
        assert_eq!(found, expected, "{name}:\n{:?}", problems(text.as_bytes()));
    }
}

fn good_with(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(GOOD.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

#[test]
fn places_are_exact_however_the_file_is_written() {
    let flow_listener =
        "listeners:\n  - {name: web, vip: 203.0.113.10, protocol: tcp, port: 80, backends: [{cvm: ins-x}]}\n";
    let until_listeners = &GOOD[..GOOD.find("listeners:").expect("listeners")];
    let cases = [
        Case { name: "as it is", text: GOOD.into(), found: &[] },
        Case {
            name: "a byte order mark is no column",
            text: format!("\u{feff}{}", good_with(&[("# Keeps all rules.\nversion: 1", "version: 2")])),
            found: &[("unsupported-version", 1, 10)],
        },
        Case {
            name: "lines end with CR and LF",
            text: good_with(&[("weight: 10", "weight: 200")]).replace('\n', "\r\n"),
            found: &[("weight-range", 43, 17)],
        },
        Case {
            name: "lines end with CR",
            text: good_with(&[("weight: 10", "weight: 200")]).replace('\n', "\r"),
            found: &[("weight-range", 43, 17)],
        },
        Case {
            name: "flow style",
            text: format!("{until_listeners}{flow_listener}"),
            found: &[("unknown-cvm", 36, 78)],
        },
        Case {
            name: "JSON",
            text: r#"{"version": 1, "load_balancer": {"id": "lb", "vpc": "v", "interfaces": ["eth0"], "forwarding": "tat"}}"#
                .into(),
            found: &[("syntax", 1, 96)],
        },
        Case {
            name: "columns are characters, not bytes",
            text: good_with(&[("id: lb-web", "id: 负载均衡 # ключ")])
                .replace("interfaces: [eth0]", "interfaces: [éth0, 7]"),
            found: &[("syntax", 6, 22)],
        },
        Case {
            name: "tabs in comments and before them",
            text: good_with(&[("version: 1", "version: 1\t#\ta comment"), ("weight: 10", "weight: 200 #\tx")]),
            found: &[("weight-range", 43, 17)],
        },
        Case {
            name: "quotes belong to the value",
            text: good_with(&[("cvm: ins-web2", "cvm: 'ins-db1'")]),
            found: &[("unknown-cvm", 44, 14)],
        },
        Case {
            name: "an alias stands where it is used",
            text: good_with(&[("id: lb-web", "id: &id lb-web"), ("cvm: ins-web2", "cvm: *id")]),
            found: &[("unknown-cvm", 44, 14)],
        },
        Case {
            name: "a value stands after its anchor",
            text: good_with(&[("cvm: ins-web2", "cvm: &anchor ins-db1")]),
            found: &[("unknown-cvm", 44, 22)],
        },
    ];
    cases.into_iter().for_each(Case::check);
}

#[test]
fn one_mistake_is_reported_once() {
    let cases = [
        Case {
            name: "a mistake at an anchor is reported once, and not for each alias",
            text: good_with(&[
                ("weight: 10", "weight: &w 101"),
                ("cvm: ins-web2\n", "cvm: ins-web2\n        weight: *w\n"),
            ]),
            found: &[("weight-range", 43, 20)],
        },
        Case {
            name: "a backend that is used twice through an alias",
            text: good_with(&[("      - eni: 10.0.2.11\n", "      - &b\n        eni: 10.0.2.11\n")])
                .replace("  - name: dns", "      - *b\n  - name: dns"),
            found: &[("duplicate-backend", 49, 9)],
        },
        Case {
            name: "null is no value",
            text: good_with(&[("weight: 10", "weight: ~"), ("id: lb-web", "id: null")]),
            found: &[("syntax", 4, 7)],
        },
        Case {
            name: "two keys are missing in a mapping without any",
            text: good_with(&[("  - id: eni-web1", "  - {}\n  - id: eni-web1")])
                .replace("{}", "{role: secondary, zone: z, id: e}"),
            found: &[("missing-key", 16, 6), ("missing-key", 16, 6)],
        },
        Case {
            name: "an IPv4-mapped address is the IPv4 address",
            text: good_with(&[("- cvm: ins-web2", "- eni: '::ffff:10.0.2.11'")]),
            found: &[("duplicate-backend", 46, 14)],
        },
        Case {
            name: "a CVM bound as such and by its address",
            text: good_with(&[("- eni: 10.0.2.11", "- eni: 10.0.1.11")]),
            found: &[("primary-ip-bound-as-eni", 46, 14), ("duplicate-backend", 46, 14)],
        },
        Case {
            name: "a misspelt section hides no CVM",
            text: good_with(&[("cvms:", "cmvs:")]),
            found: &[("unknown-key", 8, 1)],
        },
        Case {
            name: "an unreadable id hides what it names",
            text: good_with(&[("  - id: ins-web2", "  - id: [ins-web2]")]),
            found: &[("syntax", 12, 9)],
        },
        Case {
            name: "an unreadable address hides what binds it",
            text: good_with(&[("primary_ip: 10.0.2.11", "primary_ip: 10.0.2.11/24")]),
            found: &[("syntax", 34, 17)],
        },
        Case {
            name: "a mapping that ran into the one before it",
            text: good_with(&[("  - id: ins-web2\n", "    id: ins-web2\n")]),
            found: &[("syntax", 12, 5), ("syntax", 13, 5), ("syntax", 14, 5)],
        },
        Case {
            name: "a merge key",
            text: good_with(&[("  - id: ins-web2", "  - <<: {vpc: x}\n    id: ins-web2")]),
            found: &[("unknown-key", 12, 5)],
        },
    ];
    cases.into_iter().for_each(Case::check);
}

/// Nothing that a file holds may stop the agent, or cost more than it is worth.
#[test]
fn hostile_input_ends_in_one_clear_error_within_a_second() {
    let bomb = |levels: usize| {
        let first = "version: 1\na0: &a0 [x]\n".to_owned();
        (1..levels).fold(first, |text, level| {
            let below = format!("*a{}, ", level - 1).repeat(10);
            format!("{text}a{level}: &a{level} [{below}]\n")
        })
    };
    let cases = [
        ("nothing", vec![], "the file is empty", (1, 1)),
        ("only a comment", b"# nothing\n".to_vec(), "the file is empty", (1, 1)),
        ("a scalar", b"\n  hello".to_vec(), "the file must be a mapping, not the text `hello`", (2, 3)),
        ("a NUL byte", b"version: 1\nload_balancer: a\0b".to_vec(), "U+0000", (2, 17)),
        ("an escape sequence", b"version: \x1b[31m1".to_vec(), "U+001B", (1, 10)),
        ("a byte that is not UTF-8", b"version: 1\n\xc3\xa9: \xff\n".to_vec(), "0xff is not UTF-8", (2, 4)),
        ("UTF-16", b"\xff\xfev\0e\0r\0".to_vec(), "0xff is not UTF-8", (1, 1)),
        ("two documents", b"version: 1\n---\nversion: 1\n".to_vec(), "a second document", (2, 1)),
        ("an alias without anchor", b"version: *one\n".to_vec(), "unknown anchor", (1, 10)),
        ("an alias in its own anchor", b"version: &v [*v]\n".to_vec(), "inside of its own anchor", (1, 14)),
        ("a tab for indentation", b"load_balancer:\n\tid: x\n".to_vec(), "not YAML", (2, 2)),
        ("nested lists", b"[".repeat(10_000), "more than 32 levels", (1, 256)),
        ("nested block lists", b"- ".repeat(10_000), "more than 32 levels", (1, 65)),
        ("nested mappings", b"a: {".repeat(10_000), "more than 32 levels", (1, 128)),
        ("aliases of aliases", bomb(9).into_bytes(), "keys and values", (9, 10)),
        (
            "aliases that nest deeper and deeper",
            (1..10_000)
                .fold("a0: &a0 [x]\n".into(), |text, n| format!("{text}a{n}: &a{n} [*a{}]\n", n - 1))
                .into_bytes(),
            "more than 32 levels",
            (32, 12),
        ),
        ("100 MB", vec![b'#'; 100_000_000], "larger than 64 MiB", (1, 1)),
        ("100 MB of nesting", b"[".repeat(100_000_000), "larger than 64 MiB", (1, 1)),
        ("one list without an end", b"[1, ".repeat(1 << 20), "more than 32 levels", (1, 1021)),
        ("one long list", [b"[".to_vec(), b"1,".repeat(2 << 20)].concat(), "too much in one pair", (1, 1)),
        ("a key that is a list", b"[a, b]: c\n".to_vec(), "a key must be text", (1, 1)),
        ("a tag", b"version: 1\nload_balancer: !!map {}\n".to_vec(), "tags", (2, 16)),
    ];
    for (name, text, message, place) in cases {
        let start = Instant::now();
        let problems = load("clb.yaml", &text).expect_err(name);
        let json = problems.to_json();
        let rendered = problems.render(Color::Never);
        let taken = start.elapsed();
        let first = &json[0];
        let found = (first["line"].as_u64().unwrap_or(0), first["column"].as_u64().unwrap_or(0));
        assert_eq!(first["code"], "syntax", "{name}: {problems:?}");
        assert!(first["message"].as_str().is_some_and(|text| text.contains(message)), "{name}: {problems:?}");
        assert_eq!(found, place, "{name}: {rendered}");
        // Debug builds on busy machines are allowed to be slower than what is promised for a release.
        assert!(taken < Duration::from_secs(10), "{name} took {taken:?}");
    }
}

#[test]
fn a_long_line_and_control_characters_are_shown_with_care() {
    let backends: Vec<_> = (0..5000).map(|n| format!("{{cvm: ins-web1, port: {}}}", 9000 + n % 4999)).collect();
    let long = good_with(&[("    backends:\n      - eni: 10.0.1.12", "    backends: [LIST]")])
        .replace("LIST", &backends.join(", "));
    let escapes = good_with(&[("cvm: ins-web2", "cvm: \"\\e[31m\\u202e\"")]);
    assert_told("drawn-long-line", &problems(long.as_bytes()));
    assert_told("drawn-escapes", &problems(escapes.as_bytes()));
    let colored = problems(escapes.as_bytes()).render(Color::Always);
    assert!(colored.contains("\x1b["), "{colored:?}");
}

#[test]
fn json_has_the_promised_keys() {
    let text = good_with(&[("weight: 10", "weight: 101")]);
    let expected = json!([{
        "code": "weight-range",
        "severity": "error",
        "message": "`weight` is 101, which is not from 0 to 100",
        "file": "clb.yaml",
        "line": 43,
        "column": 17,
        "help": "write a whole number from 0 to 100",
    }]);
    assert_eq!(problems(text.as_bytes()).to_json(), expected);
    assert_eq!(problems(GOOD.as_bytes()).to_json(), json!([]));
}

#[test]
fn a_file_that_cannot_be_read_is_no_problem_of_its_text() {
    for path in ["/no/such/file.yaml", "/"] {
        let error = read(Path::new(path)).expect_err(path);
        assert!(matches!(&error, ReadError::Io { path: found, .. } if found == Path::new(path)), "{error:?}");
        assert!(error.to_string().starts_with(&format!("cannot read {path}: ")), "{error}");
    }
}

fn config(text: &str) -> Config {
    load("clb.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}")).config
}

#[test]
fn a_file_means_what_it_says_and_defaults_are_the_promised_ones() {
    let backend = |address: &str, port, weight, kind, cvm: &str, eni: &str| Backend {
        address: address.parse().expect("an address"),
        port,
        weight,
        kind,
        cvm: cvm.into(),
        eni: eni.into(),
    };
    let cvm = |id: &str| Cvm { id: id.into(), vpc: "vpc-prod".into(), zone: "zone-1".into() };
    let eni = |id: &str, role, cvm: &str, primary_ip: &str, secondary_ips: &[&str]| Eni {
        id: id.into(),
        role,
        vpc: "vpc-prod".into(),
        zone: "zone-1".into(),
        attached_to: Some(cvm.into()),
        primary_ip: primary_ip.parse().expect("an address"),
        secondary_ips: secondary_ips.iter().map(|address| address.parse().expect("an address")).collect(),
    };
    let expected = Config {
        id: "lb-web".into(),
        vpc: "vpc-prod".into(),
        cvms: vec![cvm("ins-web1"), cvm("ins-web2")],
        enis: vec![
            eni("eni-data", Role::Secondary, "ins-web1", "10.0.2.11", &[]),
            eni("eni-web1", Role::Primary, "ins-web1", "10.0.1.11", &["10.0.1.12"]),
            eni("eni-web2", Role::Primary, "ins-web2", "10.0.1.21", &[]),
        ],
        interfaces: vec!["eth0".into()],
        hash_seed: xxhash_rust::xxh3::xxh3_64(b"lb-web"),
        tunnel_sources: TunnelSources {
            v4: "172.16.0.0/16".parse().expect("a prefix"),
            v6: "100::/64".parse().expect("a prefix"),
        },
        gue_port: 6080,
        source_addresses: vec![],
        max_flows: 262_144,
        listeners: vec![
            Listener {
                name: "web".into(),
                vip: "203.0.113.10".parse().expect("an address"),
                protocol: Protocol::Tcp,
                port: 80,
                forwarding: Forwarding::Nat,
                slots: 65537,
                affinity: Affinity::Connection,
                drain: Duration::from_mins(5),
                idle_timeout: Duration::from_mins(15),
                on_unhealthy: OnUnhealthy::Move,
                health_check: None,
                backends: vec![
                    backend("10.0.1.11", 8080, 10, BackendKind::Cvm, "ins-web1", "eni-web1"),
                    backend("10.0.1.21", 8080, 10, BackendKind::Cvm, "ins-web2", "eni-web2"),
                    backend("10.0.2.11", 8080, 10, BackendKind::Eni, "ins-web1", "eni-data"),
                ],
            },
            Listener {
                name: "dns".into(),
                vip: "203.0.113.10".parse().expect("an address"),
                protocol: Protocol::Udp,
                port: 53,
                forwarding: Forwarding::Nat,
                slots: 65537,
                affinity: Affinity::Connection,
                drain: Duration::from_secs(30),
                idle_timeout: Duration::from_mins(5),
                on_unhealthy: OnUnhealthy::Move,
                health_check: None,
                backends: vec![backend("10.0.1.12", 53, 10, BackendKind::Eni, "ins-web1", "eni-web1")],
            },
        ],
    };
    assert_eq!(config(GOOD), expected);

    let full = config(include_str!("../../config/full.yaml"));
    assert_eq!(full.hash_seed, 7);
    assert_eq!(full.tunnel_sources.v4.to_string(), "10.200.0.0/16");
    assert_eq!((full.gue_port, full.source_addresses.len(), full.max_flows), (6080, 2, 1_000_000));
    let web = full.listeners.iter().find(|listener| listener.name == "web").expect("the listener");
    let check = HealthCheck {
        kind: HealthCheckKind::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy: 3,
        unhealthy: 3,
    };
    assert_eq!((web.slots, web.health_check.as_ref()), (16381, Some(&check)));
    let dns = full.listeners.iter().find(|listener| listener.name == "dns").expect("the listener");
    let check = HealthCheck { kind: HealthCheckKind::Icmp, ..check };
    assert_eq!(
        (dns.affinity, dns.on_unhealthy, dns.health_check.as_ref()),
        (Affinity::ClientIp, OnUnhealthy::Keep, Some(&check))
    );
}

#[test]
fn the_order_of_listeners_backends_and_sections_changes_nothing() {
    let (head, listeners) = GOOD.split_once("listeners:\n").expect("listeners");
    let (web, dns) = listeners.split_at(listeners.find("  - name: dns").expect("the last listener"));
    let (before, cvms) = head.split_at(head.find("cvms:").expect("CVMs"));
    let one = "      - cvm: ins-web1\n        port: 8080\n        weight: 10\n";
    let web = format!("{}{one}", web.replacen(one, "", 1));
    let reordered = format!("listeners:\n{dns}{web}{cvms}{before}");
    assert_ne!(reordered, GOOD);
    assert_eq!(config(&reordered), config(GOOD));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    /// Whatever a slip of the finger or a broken disk makes of a file: it is refused for a reason, or keeps all rules.
    #[test]
    fn a_damaged_file_is_never_refused_without_a_reason(
        damages in vec((0..GOOD.len(), 0..12_usize, "[-:,*&!#'\"{}\\[\\] \t\r\na1é\u{feff}]{0,4}"), 1..4),
    ) {
        let mut text = GOOD.as_bytes().to_vec();
        for (at, length, instead) in damages {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, instead.into_bytes());
        }
        if let Err(problems) = load("clb.yaml", &text) {
            prop_assert!(problems.errors() > 0);
            let rendered = problems.render(Color::Never);
            for problem in problems.to_json().as_array().expect("an array") {
                let place = format!("--> clb.yaml:{}:{}\n", problem["line"], problem["column"]);
                prop_assert!(rendered.contains(&place), "{place} is not in {rendered}");
            }
        }
    }
}
