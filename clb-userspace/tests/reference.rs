//! The generated pages and the schema: as the tables say, and the schema as its meta-schema and the examples say.
//!
//! `CLB_UPDATE_REFERENCE=1 cargo test -p clb-userspace --test reference` writes them again.

use std::{env, fs, path::Path};

use clb_common::DropReason;
use clb_userspace::api::{ROUTES, Route};
use clb_userspace::config::{
    Code, Config, Seconds, Severity,
    keys::{Absence, BACKEND, CVM, ENI, FILE, HEALTH_CHECK, Key, LISTENER, LOAD_BALANCER, Section, Value},
    load, schema,
};
use clb_userspace::metrics::{FAMILIES, Family, Kind};
use serde_json::Value as Json;

const MINIMAL: &str = include_str!("../../config/minimal-nat.yaml");

/// Compares with the file in the repository, or writes it.
fn assert_current(path: &str, generated: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if env::var_os("CLB_UPDATE_REFERENCE").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("make the folder");
        fs::write(&file, generated).expect("write the file");
    }
    let current = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        current == generated,
        "{path} is stale\nhelp: CLB_UPDATE_REFERENCE=1 cargo test -p clb-userspace --test reference"
    );
}

#[test]
fn the_schema_is_current() {
    let text = serde_json::to_string_pretty(&schema()).expect("JSON");
    assert_current("config/clb.schema.json", &format!("{text}\n"));
}

#[test]
fn the_page_of_drop_reasons_is_current() {
    let mut page = String::from(
        "# Drop reasons\n\nGenerated from `clb-common/src/drop_reason.rs`. Why a packet for a listener, or a reply from a \
         backend, was not sent;\n`clb status` counts each.\n\n| reason | what happened |\n|---|---|\n",
    );
    for reason in DropReason::ALL {
        page.push_str(&format!("| `{}` | {} |\n", reason.name(), reason.help()));
    }
    assert_current("docs/drop-reasons.md", &page);
}

#[test]
fn the_page_of_the_api_is_current() {
    let mut page = String::from(
        "# The agent's API\n\nGenerated from `clb-userspace/src/api/routes.rs`. HTTP and JSON over the Unix socket of \
         `clb run --socket PATH`, `/run/clb.sock` by default,\nwhich only its owner may open. The commands of `clb` ask by it, \
         and so can others:\n\n```text\ncurl --unix-socket /run/clb.sock http://clb/v1/status\n\
         curl --unix-socket /run/clb.sock --data-binary @lb.yaml 'http://clb/v1/apply?name=lb.yaml'\n```\n\n\
         A path begins with the version: what is there keeps its name and meaning, and more may come. What cannot be answered \
         is an object with\n`error`, under a code of 400 or more. A connection is good for one question. A client has 5 s for \
         the headers, which have up to 64 KiB,\nand 30 s for a configuration, which has up to 64 MiB. Of more than 128 \
         connections, one that keeps the agent waiting is closed.\n\n| request | what it carries | answer |\n|---|---|---|\n",
    );
    for Route { method, path, question, answer } in ROUTES {
        page.push_str(&format!("| `{method} {path}` | {question} | {answer} |\n"));
    }
    assert_current("docs/api.md", &page);
}

#[test]
fn the_page_of_metrics_is_current() {
    let mut page = String::from(
        "# Metrics\n\nGenerated from `clb-userspace/src/metrics.rs`. `clb run --metrics ADDRESS:PORT` answers `GET /metrics` with \
         them, in the\ntext format of OpenMetrics 1.0, and so does `/v1/metrics` on the agent's socket. Counters are read when they \
         are asked for. A\ncounter begins at 0 again when the agent starts, or when what it is of was gone. A backend is called by \
         its address and port.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for Family { name, kind, labels, help, .. } in FAMILIES {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    assert_current("docs/metrics.md", &page);
}

#[test]
fn the_page_of_the_configuration_is_current() {
    let mut page = String::from(
        "# The configuration file\n\nGenerated from the tables in `clb-userspace/src/config/` (`keys.rs`, `problem.rs`). \
         An example with every key is\n[`config/full.yaml`](../config/full.yaml). Unknown keys are errors; durations carry \
         their unit (`500ms`, `5s`, `2m`, `1h`).\n\n## Keys\n",
    );
    let sections: [(&str, &Section); 7] = [
        ("The file", &FILE),
        ("`load_balancer`", &LOAD_BALANCER),
        ("`cvms[]`", &CVM),
        ("`enis[]`", &ENI),
        ("`listeners[]`", &LISTENER),
        ("`listeners[].health_check`", &HEALTH_CHECK),
        ("`listeners[].backends[]`: exactly one of `cvm` and `eni`", &BACKEND),
    ];
    for (title, section) in sections {
        page.push_str(&format!("\n### {title}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"));
        for key in section.keys {
            let default = match key.default {
                Absence::Required => "**required**".to_owned(),
                Absence::Is(value) => format!("`{value}`"),
                Absence::Said(said) => said.to_owned(),
            };
            page.push_str(&format!("| `{}` | {} | {default} | {} |\n", key.name, described(&key.value), key.meaning));
        }
    }
    page.push_str(
        "\n## Problems\n\nAll problems of a file are shown in one run, in its order. An error refuses the file, a warning \
         does not.\n`clb check --format json` prints the same as objects with the code, the place and the help.\n",
    );
    for code in Code::ALL {
        let severity = match code.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        page.push_str(&format!(
            "\n### {severity} `{}`\n\n{}\n\n```text\n{}\n```\n",
            code.name(),
            code.rule(),
            told(*code)
        ));
    }
    assert_current("docs/configuration.md", &page);
}

/// The first problem of this code, as the snapshot beside its file has it.
fn told(code: Code) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(format!("{}.snap", code.name()));
    let snapshot = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let begin = snapshot.find(&format!("[{}]", code.name())).expect("the code in its own snapshot");
    let begin = snapshot[..begin].rfind('\n').map_or(0, |newline| newline + 1);
    let end = snapshot[begin..].find("\n\n").map_or(snapshot.len(), |length| begin + length);
    snapshot[begin..end].trim_end().to_owned()
}

fn described(value: &Value) -> String {
    let words = |words: Vec<String>| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match value {
        Value::Text => "text".into(),
        Value::Texts => "list of texts, one or more".into(),
        Value::Address => "IPv4 or IPv6 address".into(),
        Value::Addresses => "list of addresses".into(),
        Value::Prefixes => "list of prefixes".into(),
        Value::Number(range) if range.start() == range.end() => format!("`{}`", range.start()),
        Value::Number(range) => format!("whole number, {} to {}", range.start(), range.end()),
        Value::OneOfNumbers(numbers) => words(numbers.iter().map(ToString::to_string).collect()),
        Value::OneOf(choices) => words(choices.iter().map(ToString::to_string).collect()),
        Value::Statuses => "HTTP status, or two with a dash".into(),
        Value::Time(range) => format!("duration, {} to {}", Seconds(*range.start()), Seconds(*range.end())),
        Value::Mapping(_) => "mapping".into(),
        Value::List(_) => "list".into(),
    }
}

/// Whether a validator that follows the standard takes the file.
fn validates(yaml: &str) -> bool {
    let validator = jsonschema::validator_for(&schema()).expect("a schema");
    validator.is_valid(&serde_yaml::from_str::<Json>(yaml).expect("YAML"))
}

#[test]
fn the_schema_keeps_its_meta_schema_and_takes_every_example() {
    jsonschema::meta::validate(&schema()).expect("a schema of 2020-12");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut examples = 0;
    for path in fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        if path.extension().is_some_and(|end| end == "yaml") {
            let text = fs::read_to_string(&path).expect("an example");
            assert!(validates(&text), "{}", path.display());
            assert!(text.contains("# yaml-language-server: $schema=clb.schema.json\n"), "{}", path.display());
            examples += 1;
        }
    }
    assert!(examples >= 4);
    for empty in ["cvms:\n", "listeners:\n"] {
        let text = format!("version: 1\nload_balancer: {{id: lb, vpc: v, interfaces: [eth0]}}\n{empty}");
        assert!(validates(&text), "a key without a value is as good as none: {text}");
        assert!(load("clb.yaml", text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let cases = [
        ("an unknown key", "weight: 30", "wieght: 30"),
        ("a missing key", "    vip: 203.0.113.10\n", ""),
        ("a weight that is too large", "weight: 30", "weight: 101"),
        ("a port of 0", "port: 80\n", "port: 0\n"),
        ("both kinds of binding", "- cvm: ins-web1", "- cvm: ins-web1\n        eni: 10.0.2.21"),
        ("neither kind of binding", "- cvm: ins-web1         ", "- # nothing"),
        ("another protocol", "protocol: tcp", "protocol: http"),
        ("another number of slots", "forwarding: nat", "slots: 1000\n  forwarding: nat"),
        ("a duration without a unit", "port: 80\n", "port: 80\n    drain: 30\n"),
        ("a prefix without its length", "forwarding: nat", "tunnel_sources: [172.16.0.0]\n  forwarding: nat"),
        ("an address that is none", "vip: 203.0.113.10", "vip: example"),
        ("another version", "version: 1", "version: 2"),
    ];
    assert!(validates(MINIMAL));
    for (name, from, to) in cases {
        assert!(MINIMAL.contains(from), "{name}");
        let text = MINIMAL.replacen(from, to, 1);
        assert!(!validates(&text), "{name}:\n{text}");
        assert!(load("clb.yaml", text.as_bytes()).is_err(), "{name}:\n{text}");
    }
}

#[test]
fn defaults_are_as_the_table_says() {
    let default = |section: &Section, name: &str| {
        let Absence::Is(value) = key(section, name).default else { panic!("{name} has no default of its own") };
        format!("{name}: {value}")
    };
    let config = |text: &str| -> Config {
        load("clb.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{text}\n{problems:?}")).config
    };
    let checked = MINIMAL.replacen("port: 80\n", "port: 80\n    health_check: {type: tcp}\n", 1);
    let cases = [
        (
            "the size of the slot table",
            "forwarding: nat",
            format!("{}\n  forwarding: nat", default(&LOAD_BALANCER, "slots")),
        ),
        ("the port of GUE", "forwarding: nat", format!("{}\n  forwarding: nat", default(&LOAD_BALANCER, "gue_port"))),
        (
            "the size of the flow table",
            "forwarding: nat",
            format!("{}\n  forwarding: nat", default(&LOAD_BALANCER, "max_flows")),
        ),
        ("affinity", "port: 80\n", format!("port: 80\n    {}\n", default(&LISTENER, "affinity"))),
        ("failed checks", "port: 80\n", format!("port: 80\n    {}\n", default(&LISTENER, "on_unhealthy"))),
        ("weight", "weight: 10", default(&BACKEND, "weight")),
        ("interval", "{type: tcp}", format!("{{type: tcp, {}}}", default(&HEALTH_CHECK, "interval"))),
        ("timeout", "{type: tcp}", format!("{{type: tcp, {}}}", default(&HEALTH_CHECK, "timeout"))),
        ("good answers", "{type: tcp}", format!("{{type: tcp, {}}}", default(&HEALTH_CHECK, "healthy"))),
        ("failures", "{type: tcp}", format!("{{type: tcp, {}}}", default(&HEALTH_CHECK, "unhealthy"))),
    ];
    let without = checked.replacen("        weight: 10\n", "", 1);
    for (name, from, to) in cases {
        assert!(checked.contains(from), "{name}");
        assert_eq!(config(&checked.replacen(from, &to, 1)), config(&without), "{name}");
    }
    let of_type = |keys: &str, kind: &str, protocol: &str| {
        let check = format!("port: 80\n    health_check: {{type: {kind}{keys}}}\n");
        config(&MINIMAL.replacen("port: 80\n", &check, 1).replacen(
            "protocol: tcp",
            &format!("protocol: {protocol}"),
            1,
        ))
    };
    for (name, kind, protocol) in
        [("method", "http", "tcp"), ("path", "http", "tcp"), ("status", "http", "tcp"), ("send", "udp", "udp")]
    {
        let written = of_type(&format!(", {}", default(&HEALTH_CHECK, name)), kind, protocol);
        assert_eq!(written, of_type("", kind, protocol), "{name}");
    }
    for name in ["drain", "idle_timeout"] {
        let Absence::Said(words) = key(&LISTENER, name).default else { panic!("{name} has one default") };
        let (tcp, udp) = words.split_once(", ").expect("one for each protocol");
        for (said, title, protocol) in [(tcp, "TCP", "tcp"), (udp, "UDP", "udp")] {
            let value = said.strip_suffix(&format!("` for {title}")).and_then(|said| said.strip_prefix('`'));
            let without = MINIMAL.replacen("protocol: tcp", &format!("protocol: {protocol}"), 1);
            let line = format!("port: 80\n    {name}: {}\n", value.expect("`VALUE` for PROTOCOL"));
            assert_eq!(config(&without.replacen("port: 80\n", &line, 1)), config(&without), "{name} for {protocol}");
        }
    }
}

fn key<'s>(section: &'s Section, name: &str) -> &'s Key {
    section.keys.iter().find(|key| key.name == name).expect("a key of the table")
}
