//! What checking 10,000 backends every five seconds costs: `cargo bench -p clb-userspace --bench health`.
//!
//! The servers are another process, so that the CPU time is the agent's alone, the kernel's work for it included. The
//! backends are addresses of the loopback interface.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clb_userspace::{
    config::{Backend, load},
    health::Health,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

const BACKENDS: u32 = 10_000;
const INTERVAL: Duration = Duration::from_secs(5);
const TURNS: u32 = 2;

fn main() {
    if env::args().any(|argument| argument == "serve") {
        return serve();
    }
    let program = env::current_exe().expect("this program");
    let mut server = Command::new(program).arg("serve").stdout(Stdio::piped()).spawn().expect("start the servers");
    let mut port = String::new();
    let output = server.stdout.take().expect("its output");
    BufReader::new(output).read_line(&mut port).expect("its port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
    for kind in ["tcp", "http"] {
        runtime.block_on(measure(kind, port.trim().parse().expect("a port")));
    }
    server.kill().expect("end the servers");
    server.wait().expect("their end");
}

async fn measure(kind: &str, port: u16) {
    let check = format!("protocol: tcp\n    health_check: {{type: {kind}}}\n");
    let text = include_str!("../../config/minimal-nat.yaml").replacen("protocol: tcp\n", &check, 1);
    let loaded = load("bench.yaml", text.as_bytes());
    let mut config = loaded.map_err(|problems| problems.to_string()).expect("a valid file").config;
    let listener = &mut config.listeners[0];
    let backend = listener.backends[0].clone();
    let addresses = (0..BACKENDS).map(|number| Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number));
    listener.backends = addresses.map(|address| Backend { address: address.into(), port, ..backend.clone() }).collect();
    let health = Health::start(&config, &BTreeSet::new());
    // The first turn is not of interest: it grows the tables.
    tokio::time::sleep(INTERVAL).await;
    let (begin, before) = (Instant::now(), spent());
    tokio::time::sleep(INTERVAL * TURNS).await;
    let share = spent().saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64();
    println!(
        "{BACKENDS} backends, {kind}, every {INTERVAL:?}: {:.1} % of a core, {:?}",
        share * 100.0,
        health.counts()
    );
}

fn spent() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the CPU time of this process");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn serve() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    println!("{}", listener.local_addr().expect("its address").port());
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        if stream.read(&mut request).is_ok_and(|length| length > 0) {
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    }
}
