//! What checking a configuration costs, and how that grows: `cargo bench -p clb-userspace --bench check`.
//!
//! First files of 1,000 to 500,000 bindings in the layouts that people and tools write, then files that mean harm, each just
//! below the largest file that is read. Every row is a process of its own, so that the peak of memory is the row's. It has the
//! text and the result in it; CPU time is of the check alone, the kernel's count for the one thread, the least of three runs.

use std::{env, fmt::Write as _, fs, hint::black_box, process::Command};

use clb_userspace::config::load;

/// A file to check, by its name and its size.
type Row = (&'static str, usize, fn(usize) -> String);

const ROWS: &[Row] = &[
    ("one line each", 1_000, one_line),
    ("one line each", 10_000, one_line),
    ("one line each", 100_000, one_line),
    ("one line each", 500_000, one_line),
    ("two lines each", 1_000, two_lines),
    ("two lines each", 10_000, two_lines),
    ("two lines each", 100_000, two_lines),
    ("two lines each", 500_000, two_lines),
    ("three lines each", 1_000, three_lines),
    ("three lines each", 10_000, three_lines),
    ("three lines each", 100_000, three_lines),
    ("three lines each", 500_000, three_lines),
    ("a file that is too large", 100_000_000, |bytes| "a".repeat(bytes)),
    ("nesting", 10_000, |depth| "[".repeat(depth)),
    ("nesting, all of a file", LARGEST, |depth| "[".repeat(depth)),
    ("billion laughs", 9, laughs),
    ("NUL bytes", LARGEST, |bytes| "\0".repeat(bytes)),
    ("list of tiny values", LARGEST / 4, |items| "- a\n".repeat(items)),
    ("flow list of tiny values", LARGEST / 2, |items| format!("[{}", "a,".repeat(items))),
    ("one mapping of keys", LARGEST / 12, |keys| {
        (0..keys).fold(String::new(), |text, key| text + &format!("k{key}: 1\n"))
    }),
    ("the same key again", LARGEST / 5, |keys| "k: 1\n".repeat(keys)),
    ("anchors", LARGEST / 15, |items| (0..items).fold(String::new(), |text, item| text + &format!("- &a{item} b\n"))),
    ("a wrong listener again", LARGEST / 12, |items| "listeners:\n".to_owned() + &"  - {a: 1}\n".repeat(items)),
    ("one scalar", LARGEST, |bytes| "a".repeat(bytes)),
    ("one comment", LARGEST, |bytes| format!("#{}", "a".repeat(bytes - 1))),
    ("one quoted scalar", LARGEST, |bytes| format!("\"{}", "a".repeat(bytes - 1))),
    ("empty lines", LARGEST, |bytes| "\n".repeat(bytes)),
];

/// Just below what is read at all.
const LARGEST: usize = (64 << 20) - 64;

fn main() {
    // A row's own process.
    if let Some(row) =
        env::var("CLB_BENCH_ROW").ok().and_then(|row| row.parse().ok()).and_then(|row: usize| ROWS.get(row))
    {
        let (name, size, make) = row;
        measure(name, *size, &make(*size));
        return;
    }
    println!("{:<26} {:>11} {:>8} {:>10} {:>10}  outcome", "file", "size", "MB", "CPU ms", "peak MiB");
    let program = env::current_exe().expect("this program");
    for row in 0..ROWS.len() {
        let status = Command::new(&program).env("CLB_BENCH_ROW", row.to_string()).status().expect("run this program");
        assert!(status.success(), "row {row} failed");
    }
}

fn measure(name: &str, size: usize, text: &str) {
    let mut outcome = String::new();
    let nanoseconds = (0..3).map(|_| check(text, &mut outcome)).min().expect("three runs");
    let megabytes = text.len() as f64 / 1e6;
    let milliseconds = nanoseconds as f64 / 1e6;
    println!("{name:<26} {size:>11} {megabytes:>8.1} {milliseconds:>10.1} {:>10}  {outcome}", peak_mebibytes());
}

fn check(text: &str, outcome: &mut String) -> u64 {
    let before = cpu_nanoseconds();
    let loaded = load("bench.yaml", text.as_bytes());
    let after = cpu_nanoseconds();
    *outcome = match &loaded {
        Ok(_) => "good".to_owned(),
        Err(problems) => problems.to_string(),
    };
    black_box(loaded).ok();
    after - before
}

fn one_line(bindings: usize) -> String {
    topology(bindings, "      - {cvm: ", ", port: 80, weight: 10}\n")
}

fn two_lines(bindings: usize) -> String {
    topology(bindings, "      - cvm: ", "\n        port: 80\n")
}

fn three_lines(bindings: usize) -> String {
    topology(bindings, "      - cvm: ", "\n        port: 80\n        weight: 10\n")
}

/// Listeners of 500 backends each, or of 100 in small files.
fn topology(bindings: usize, before: &str, after: &str) -> String {
    let backends = if bindings < 100_000 { 100 } else { 500 };
    let mut text =
        "version: 1\nload_balancer: {id: lb, vpc: v, interfaces: [eth0], forwarding: dsr}\ncvms:\n".to_owned();
    for backend in 0..backends {
        let _ = writeln!(text, "  - {{id: ins-{backend}, vpc: v, zone: z}}");
    }
    text += "enis:\n";
    for backend in 0..backends {
        let address = format!("10.0.{}.{}", backend >> 8, backend & 255);
        let _ = write!(text, "  - {{id: eni-{backend}, role: primary, vpc: v, zone: z, ");
        let _ = writeln!(text, "attached_to: ins-{backend}, primary_ip: {address}}}");
    }
    text += "listeners:\n";
    for listener in 0..bindings / backends {
        let vip = format!("203.0.{}.{}", listener >> 8, listener & 255);
        let _ = write!(text, "  - name: l{listener}\n    vip: {vip}\n    protocol: tcp\n    port: 80\n    backends:\n");
        for backend in 0..backends {
            let _ = write!(text, "{before}ins-{backend}{after}");
        }
    }
    text
}

/// Each line ten aliases of the one before.
fn laughs(lines: usize) -> String {
    let mut text = "l0: &l0 ha\n".to_owned();
    for line in 1..=lines {
        let aliases = vec![format!("*l{}", line - 1); 10].join(", ");
        let _ = writeln!(text, "l{line}: &l{line} [{aliases}]");
    }
    text
}

/// CPU time of this thread, as the scheduler counts it.
fn cpu_nanoseconds() -> u64 {
    let times = fs::read_to_string("/proc/self/schedstat").expect("a kernel with CONFIG_SCHED_INFO");
    times.split(' ').next().and_then(|time| time.parse().ok()).expect("nanoseconds")
}

fn peak_mebibytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB")?.trim().parse().ok());
    peak.map_or(0, |kibibytes: u64| kibibytes >> 10)
}
