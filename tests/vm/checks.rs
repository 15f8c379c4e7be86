//! The checks, in their order. Each is a name and a function that returns a sentence for the report, or fails.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use clb_common::{ForwardingMode, Protocol};
use clb_tests::Lab;
use clb_userspace::{
    control::DesiredListener,
    dataplane::{Dataplane, DropLog, ListenerId, Settings},
};

use crate::{
    config::Listener,
    connection::Connection,
    guest::{Guest, Site, listeners, transfers},
    network::{run as run_on, xdp_programs},
    report::Report,
};

/// Runs them all.
pub fn run(report: &mut Report) {
    let mut guest = Guest::default();
    for Check { name, run } in table() {
        report.check(&name, || run(&mut guest));
    }
    if report.has_failures() {
        eprintln!("--- the end of clb's log\n{}", guest.agent_log());
    }
}

struct Check {
    name: String,
    run: Box<Run>,
}

type Run = dyn Fn(&mut Guest) -> Result<String>;

fn table() -> Vec<Check> {
    let mut checks = vec![
        check("has the kernel's VLAN, ipip and fou", |_| has_devices()),
        check("the verifier accepts the program", |_| verify(DropLog::Off)),
        check("the verifier accepts it with --log-drops", |_| verify(DropLog::On)),
        check("attaches natively to virtio-net", |guest| attached(guest.site()?)),
        check("the host's own traffic passes", |guest| {
            guest.site()?.network.introduce_clients();
            Ok("every client reached it".to_owned())
        }),
    ];
    for listener in listeners() {
        let name = format!("forwards {}", listener.name);
        checks.push(check(&name, move |guest| forwarded(guest.site()?, &listener)));
    }
    for listener in transfers() {
        let name = format!("forwards {}", listener.name);
        checks.push(check(&name, move |guest| {
            Connection::open(&guest.site()?.network.client, listener.vip).exchange(TRANSFER);
            Ok(format!("{TRANSFER} bytes there and back at the same time"))
        }));
    }
    checks.push(check("the card's driver sent what clb counted", |guest| counted(guest.site()?)));
    checks.push(check("ends, and leaves nothing attached", |guest| ended(guest.site()?)));
    checks.push(check("the kernel is content", |_| untainted()));
    checks
}

fn check(name: &str, run: impl Fn(&mut Guest) -> Result<String> + 'static) -> Check {
    Check { name: name.to_owned(), run: Box::new(run) }
}

/// Devices that a kernel can receive clb's packets with.
fn has_devices() -> Result<String> {
    let lab = Lab::new()?;
    let [one, other] = [lab.host("one")?, lab.host("other")?];
    lab.link(&one, "eth0", &other, "eth0")?;
    for words in [
        "ip link add link eth0 name vlan7 type vlan id 7",
        "ip link add tunnel7 type ipip local 192.0.2.1 external",
        "ip fou add port 6080 gue",
    ] {
        one.run(words)?;
    }
    Ok("each can be made".to_owned())
}

fn verify(drop_log: DropLog) -> Result<String> {
    // A log is read by a task, which wants a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let settings = Settings { hash_seed: 7, drop_log, ..Settings::default() };
    // The verifier removes what no listener needs, so each mode has one.
    let listeners = ForwardingMode::ALL.into_iter().zip(1..).map(|(mode, port)| {
        let id = ListenerId { vip: [203, 0, 113, 10].into(), protocol: Protocol::Tcp, port };
        (id, DesiredListener { mode, slots: 1_021, weights: BTreeMap::new() })
    });
    let mut dataplane = Dataplane::load(settings, &listeners.collect())?;
    let info = dataplane.xdp()?.info()?;
    let verified = info.verified_instruction_count().context("the kernel says how many it verified")?;
    ensure!(info.size_jitted() > 0, "the program was not compiled to machine code");
    Ok(format!("{verified} instructions verified, {} bytes of machine code", info.size_jitted()))
}

fn attached(Site { network, agent, .. }: &mut Site) -> Result<String> {
    let status = agent.status()?;
    let interface = status.interfaces.first().context("clb is attached somewhere")?;
    ensure!(interface.mode == "native", "clb is attached in {} mode", interface.mode);
    let driver = run_on(&network.balancer, "ethtool -i eth0");
    let driver = driver.lines().find_map(|line| line.strip_prefix("driver: ")).unwrap_or_default();
    ensure!(driver == "virtio_net", "the driver of eth0 is {driver}");
    // With a queue for each CPU to send by; with fewer queues the driver takes a lock for each packet.
    let channels = run_on(&network.balancer, "ethtool -l eth0");
    let combined: Vec<_> = channels.lines().filter_map(|line| line.strip_prefix("Combined:")).map(str::trim).collect();
    let cpus = std::thread::available_parallelism()?.get();
    let queues = (cpus * 2).to_string();
    ensure!(combined == [&queues, &queues], "eth0 uses {combined:?} queues, as many as it can, and not {queues}");
    Ok(format!("{driver}, {cpus} CPUs, {queues} queues in use"))
}

fn forwarded(Site { network, .. }: &mut Site, listener: &Listener) -> Result<String> {
    let outcome = network.flows(listener, FLOWS);
    ensure!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    let backends: Vec<_> = listener.backends().map(|(_, backend, _)| backend.ip().to_string()).collect();
    let who: Vec<_> = outcome.answers.keys().cloned().collect();
    ensure!(backends.iter().all(|backend| who.contains(backend)), "only {who:?} answered, of {backends:?}");
    Ok(format!("{} flows answered by {} backends", outcome.answers.values().sum::<u64>(), who.len()))
}

/// Everything here goes back on the interface that it came in by, so the driver counts it as sent by XDP.
fn counted(Site { network, agent, .. }: &mut Site) -> Result<String> {
    let status = agent.status()?;
    let backends = status.listeners.iter().flat_map(|listener| &listener.backends);
    let sent: u64 = backends.map(|backend| backend.packets + backend.reply_packets).sum();
    let statistics = run_on(&network.balancer, "ethtool -S eth0");
    let by_driver: u64 = statistics
        .lines()
        .filter_map(|line| line.split_once("_xdp_tx: "))
        // Of a queue that received: newer drivers also count for all queues together.
        .filter(|(queue, _)| queue.trim().starts_with("rx") && queue.contains(|digit: char| digit.is_ascii_digit()))
        .map(|(_, count)| count.trim().parse::<u64>())
        .sum::<Result<_, _>>()?;
    ensure!(sent > 0 && sent == by_driver, "clb counted {sent} packets, the driver {by_driver}");
    Ok(format!("{sent} packets"))
}

fn ended(Site { network, agent, .. }: &mut Site) -> Result<String> {
    let status = agent.stop()?;
    ensure!(status.success(), "{status}: {}", agent.log_tail(10));
    let left = xdp_programs(&network.balancer);
    ensure!(left.is_empty(), "{left:?}");
    Ok("by SIGTERM".to_owned())
}

/// A warning of the kernel's taints it.
fn untainted() -> Result<String> {
    let taint = fs::read_to_string("/proc/sys/kernel/tainted").context("ask the kernel")?;
    ensure!(taint.trim() == "0", "its taint is {}; the console says why", taint.trim());
    Ok("it has warned of nothing".to_owned())
}

const FLOWS: u32 = 100;
const TRANSFER: usize = 1_000_000;
