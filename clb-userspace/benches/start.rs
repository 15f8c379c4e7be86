//! From a file to slot tables that packets can use, phase by phase: what a large configuration costs at start. Needs root.
//!
//! What is not in it: attaching, and waiting for neighbours, which hang on the network.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use clb_common::NextHop;
use clb_userspace::{
    config::load,
    control::{as_configured, plan},
    dataplane::{Dataplane, Settings},
};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
    println!(
        "{:>9} {:>8} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "listeners", "backends", "MB", "check", "plan", "maps", "tables", "together"
    );
    for (listeners, backends) in [(10, 100), (100, 100), (1_000, 100), (10_000, 10), (10_000, 100)] {
        runtime.block_on(measure(listeners, backends));
    }
}

async fn measure(listeners: u32, backends: u32) {
    let text = file(listeners, backends);
    let mut phases = Phases::new();
    let loaded = load("bench.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    phases.end();
    let desired = as_configured(&loaded.config).expect("modes that there are");
    phases.end();
    let mut dataplane = Dataplane::load(Settings::default(), &desired).expect("load the program: this needs root");
    phases.end();
    let next_hop = NextHop::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 1, 1_500);
    let steps = plan(&desired, &dataplane.actual());
    dataplane.apply(steps, &|_, _| next_hop).await.expect("room in the maps");
    phases.end();
    let megabytes = text.len() as f64 / 1e6;
    let Phases { ended, begin, .. } = phases;
    print!("{listeners:>9} {backends:>8} {megabytes:>6.1}");
    for phase in ended.into_iter().chain([begin.elapsed()]) {
        print!(" {:>6.0} ms", phase.as_secs_f64() * 1e3);
    }
    println!();
}

struct Phases {
    begin: Instant,
    last: Instant,
    ended: Vec<Duration>,
}

impl Phases {
    fn new() -> Self {
        let now = Instant::now();
        Self { begin: now, last: now, ended: Vec::new() }
    }

    fn end(&mut self) {
        let now = Instant::now();
        self.ended.push(now - self.last);
        self.last = now;
    }
}

/// Each listener has all the backends, with 4,093 slots.
fn file(listeners: u32, backends: u32) -> String {
    let mut text =
        "version: 1\nload_balancer: {id: lb, vpc: v, interfaces: [eth0], forwarding: dsr}\ncvms:\n".to_owned();
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a string takes all");
    for backend in 0..backends {
        line(format_args!("  - {{id: i{backend}, vpc: v, zone: z}}"));
    }
    line(format_args!("enis:"));
    for backend in 0..backends {
        let [_, _, high, low] = backend.to_be_bytes();
        line(format_args!(
            "  - {{id: e{backend}, role: primary, vpc: v, zone: z, attached_to: i{backend}, primary_ip: 10.1.{high}.{low}}}"
        ));
    }
    line(format_args!("listeners:"));
    for listener in 0..listeners {
        let [_, _, high, low] = (listener / 4).to_be_bytes();
        let port = listener % 4 + 1;
        line(format_args!(
            "  - name: l{listener}\n    vip: 203.0.{high}.{low}\n    protocol: tcp\n    port: {port}\n    slots: 4093\n    backends:"
        ));
        for backend in 0..backends {
            line(format_args!("      - {{cvm: i{backend}}}"));
        }
    }
    text
}
