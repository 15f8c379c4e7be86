//! The checks, in their order. Each is a name and a function that returns a sentence for the report, or fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramInfo, loaded_programs};
use clb_common::{ForwardingMode, Protocol, Stage};
use clb_tests::Lab;
use clb_userspace::{
    control::DesiredListener,
    dataplane::{Dataplane, Decapsulator, DropLog, ListenerId, Settings},
    prefix::Prefix,
};

use crate::{
    config::Listener,
    connection::Connection,
    guest::{Guest, Site, listeners, start_agent, transfers},
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
        check("the verifier accepts the program of clb decap", |_| verify_decap()),
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
    checks.push(check("is killed, and the next one takes over", |guest| taken_over(guest.site()?)));
    checks.push(check("ends, and clb detach leaves nothing", |guest| ended(guest.site()?)));
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
        (id, DesiredListener::new(mode, 1_021, BTreeMap::new()))
    });
    let listeners = listeners.collect();
    let stages = Stage::ALL.map(Stage::program);
    judge(&[&["clb"], &stages[..]].concat(), || Dataplane::load(settings, &listeners))
}

fn verify_decap() -> Result<String> {
    judge(&["decap"], || Decapsulator::load(&[Prefix::new([172, 16, 0, 0].into(), 12)], 6_080))
}

/// Loads these programs, and says how many instructions of each the kernel looked at: every one has to stay below the limit.
fn judge<T>(expected: &[&str], load: impl FnOnce() -> Result<T>) -> Result<String> {
    let before: Vec<_> = programs_of_kernel()?.iter().map(ProgramInfo::id).collect();
    let _loaded = load()?;
    let mut programs = Vec::new();
    for program in programs_of_kernel()? {
        if before.contains(&program.id()) {
            continue;
        }
        let name = program.name_as_str().context("a program has a name")?.to_owned();
        let count = program.verified_instruction_count().context("the kernel says how many it verified")?;
        ensure!(program.size_jitted() > 0, "{name} was not compiled to machine code");
        programs.push((count, name));
    }
    programs.sort_unstable();
    programs.reverse();
    let names: BTreeSet<_> = programs.iter().map(|(_, name)| name.as_str()).collect();
    ensure!(names == expected.iter().copied().collect(), "the kernel has {names:?}, and not {expected:?}");
    let each: Vec<_> = programs.iter().map(|(count, name)| format!("{name} {count}")).collect();
    let (largest, _) = programs[0];
    let sum: u32 = programs.iter().map(|(count, _)| count).sum();
    ensure!(largest < MOST_VERIFIED, "more than {MOST_VERIFIED} instructions verified: {}", each.join(", "));
    Ok(format!("at most {largest} instructions verified, in all {sum}: {}", each.join(", ")))
}

/// The kernel's programs: in the guest nobody but clb loads any.
fn programs_of_kernel() -> Result<Vec<ProgramInfo>> {
    loaded_programs().collect::<Result<Vec<_>, _>>().context("ask the kernel for its programs")
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

fn taken_over(site: &mut Site) -> Result<String> {
    let vips = transfers().into_iter().map(|listener| listener.vip);
    let mut connections: Vec<_> = vips.map(|vip| Connection::open(&site.network.client, vip)).collect();
    let mut exchange = || connections.iter_mut().for_each(|connection| connection.exchange(TRANSFER));
    exchange();
    site.agent.kill()?;
    exchange();
    site.agent = start_agent(&site.network);
    let log = site.agent.log_tail(10);
    ensure!(log.contains("took over eth0 in native mode"), "{log}");
    exchange();
    Ok("connections stayed open".to_owned())
}

fn ended(Site { network, agent, .. }: &mut Site) -> Result<String> {
    let status = agent.stop()?;
    ensure!(status.success(), "{status}: {}", agent.log_tail(10));
    let left = xdp_programs(&network.balancer);
    ensure!(left == ["eth0: clb"], "{left:?}");
    let detached = agent.detach_command().output().context("start clb")?;
    ensure!(detached.status.success(), "{detached:?}");
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
/// Of each program, on every kernel.
const MOST_VERIFIED: u32 = 100_000;
const TRANSFER: usize = 1_000_000;
