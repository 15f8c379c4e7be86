//! What checking a configuration costs, and how that grows: `cargo bench -p clb-userspace --bench check`.
//!
//! Files of 1,000 to 500,000 bindings in the layouts that people and tools write. CPU time is the kernel's count for the one
//! thread, the least of three runs; the peak of memory is reset before each file and has the text and the result in it.

use std::{fmt::Write as _, fs, hint::black_box};

use clb_userspace::config::load;

const LAYOUTS: [(&str, &str, &str); 3] = [
    ("one line", "      - {cvm: ", ", port: 80, weight: 10}\n"),
    ("two lines", "      - cvm: ", "\n        port: 80\n"),
    ("three lines", "      - cvm: ", "\n        port: 80\n        weight: 10\n"),
];
/// Listeners, and backends of each.
const SIZES: [(usize, usize); 4] = [(10, 100), (100, 100), (200, 500), (1000, 500)];

fn main() {
    println!("{:<12} {:>10} {:>8} {:>10} {:>12}", "layout", "bindings", "MB", "CPU ms", "peak MiB");
    for (layout, before, after) in LAYOUTS {
        for (listeners, backends) in SIZES {
            let text = topology(listeners, backends, before, after);
            // 5 resets the peak (proc(5)); without leave to do so it is the peak of all files so far.
            let _ = fs::write("/proc/self/clear_refs", "5");
            let nanoseconds = (0..3).map(|_| check(&text)).min().expect("three runs");
            let megabytes = text.len() as f64 / 1e6;
            let milliseconds = nanoseconds as f64 / 1e6;
            let bindings = listeners * backends;
            println!("{layout:<12} {bindings:>10} {megabytes:>8.1} {milliseconds:>10.1} {:>12}", peak_mebibytes());
        }
    }
}

fn check(text: &str) -> u64 {
    let before = cpu_nanoseconds();
    let loaded = load("bench.yaml", text.as_bytes()).expect("a file that keeps all rules");
    let after = cpu_nanoseconds();
    black_box(loaded);
    after - before
}

fn topology(listeners: usize, backends: usize, before: &str, after: &str) -> String {
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
    for listener in 0..listeners {
        let vip = format!("203.0.{}.{}", listener >> 8, listener & 255);
        let _ = write!(text, "  - name: l{listener}\n    vip: {vip}\n    protocol: tcp\n    port: 80\n    backends:\n");
        for backend in 0..backends {
            let _ = write!(text, "{before}ins-{backend}{after}");
        }
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
