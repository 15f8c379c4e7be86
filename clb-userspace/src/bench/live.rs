//! `clb bench --live`: packets a second over devices, on one CPU and on several.
//!
//! Packets come as from a driver (a test run with live frames), in a network namespace that is made for it and is gone with it. The
//! program sends each back, or out of another device; at the other end of the wire a program drops it. So a packet costs all that the
//! kernel does to send and to receive it, on the same CPU, and each CPU sends what it received itself.

use std::{fs, num::NonZero, sync::Barrier, thread, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use aya::programs::{ProgramFd, Xdp, XdpMode};
use clb_common::{ForwardingMode, Protocol, Version};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use serde::{Deserialize, Serialize};

use super::{
    machine::Machine,
    packet::{Packet, Segment},
    scenarios::counted,
    site::{self, Site},
    wrapper::Wrapper,
};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Live {
    /// The version of clb.
    pub clb: String,
    /// Where.
    pub machine: Machine,
    /// One for each program, way and number of CPUs.
    pub rates: Vec<Rate>,
}

/// What arrived at the other end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// What handled the packets.
    pub program: String,
    /// How they left.
    pub way: Way,
    /// How many CPUs worked.
    pub cpus: usize,
    /// Packets that arrived, all CPUs together.
    pub packets_per_second: f64,
    /// The part of the packets that did not.
    pub lost: f64,
}

/// How packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Out of the device that they came by, with `XDP_TX`.
    Transmit,
    /// Out of another one, with `XDP_REDIRECT`.
    Redirect,
}

/// Measures all of it, for so long each. `tell` hears what is measured.
pub fn measure(each: Duration, tell: impl Fn(&str) + Sync) -> anyhow::Result<Live> {
    // A thread of its own: its network namespace is gone with it.
    let rates = thread::scope(|scope| scope.spawn(|| in_namespace(each, &tell)).join());
    let rates = rates.map_err(|_| anyhow!("the thread that measures panicked"))??;
    Ok(Live { clb: env!("CARGO_PKG_VERSION").to_owned(), machine: Machine::this(), rates })
}

fn in_namespace(each: Duration, tell: &dyn Fn(&str)) -> anyhow::Result<Vec<Rate>> {
    unshare(CloneFlags::CLONE_NEWNET).context(
        "make a network namespace\n\
         help: run `clb bench --live` as root, with CAP_SYS_ADMIN",
    )?;
    // Or the host sends packets of its own when a device comes up. A kernel without IPv6 does not.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let mut wires = runtime.block_on(Wires::make())?;
    let all = thread::available_parallelism().map_or(1, NonZero::get);
    let mut numbers = vec![1];
    if all > 1 {
        numbers.push(all);
    }
    let mut rates = Vec::new();
    let swap = wires.bare.bare("swap")?.fd()?.try_clone()?;
    let packet =
        Packet::request(Protocol::Tcp, site::client(Version::V4), site::elsewhere(Version::V4), Segment::Established)?;
    let mut one = |wires: &Wires, name: &str, way, program: &ProgramFd, packet: &Packet| {
        for &cpus in &numbers {
            tell(&format!("{name}, {}, {}", way_name(way), counted(cpus as u32, "CPU")));
            let (arrived, lost) = runtime.block_on(wires.rate(way, program, packet, cpus, each))?;
            rates.push(Rate { program: name.to_owned(), way, cpus, packets_per_second: arrived, lost });
        }
        anyhow::Ok(())
    };
    one(&wires, "MAC swap", Way::Transmit, &swap, &packet)?;
    for mode in ForwardingMode::ALL {
        let listeners = site::one_of_each(&[mode]);
        let listener = site::listener(Version::V4, Protocol::Tcp, mode);
        let to = (listener.vip, listener.port).into();
        let packet = Packet::request(Protocol::Tcp, site::client(Version::V4), to, Segment::Established)?;
        for (way, interface) in [(Way::Transmit, wires.near), (Way::Redirect, wires.out)] {
            let mut site = Site::load(mode.name(), &listeners, MOST_FLOWS, interface)?;
            one(&wires, mode.name(), way, &site.fd()?, &packet)?;
            let drops = site.drops()?;
            ensure!(drops.is_empty(), "{} dropped packets: {}", mode.name(), drops.join(", "));
        }
    }
    Ok(rates)
}

/// Two wires: packets come in by the near end of the first, and leave by it or by that of the second.
struct Wires {
    bare: Wrapper,
    handle: Handle,
    near: u32,
    out: u32,
    /// The other ends.
    far: [u32; 2],
}

impl Wires {
    async fn make() -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        let mut ends = Vec::new();
        for [near, far] in NAMES {
            handle
                .link()
                .add(wire(near, far))
                .execute()
                .await
                .with_context(|| format!("make the devices {near} and {far}"))?;
            for name in [near, far] {
                let index = link(&handle, name).await?.header.index;
                let up = LinkUnspec::new_with_index(index).up().build();
                handle.link().set(up).execute().await.with_context(|| format!("set {name} up"))?;
                ends.push(index);
            }
        }
        let mut bare = Wrapper::load()?;
        // A device has the queue that frames leave by only while the other end has a program, and live frames come by one that has.
        for [near, far] in NAMES {
            attach(bare.bare("pass")?, near)?;
            attach(bare.bare("drop")?, far)?;
        }
        let [near, first, out, second] = ends[..] else { anyhow::bail!("a wire has two ends") };
        Ok(Self { bare, handle, near, out, far: [first, second] })
    }

    /// Packets a second that arrive, and the part that does not.
    async fn rate(
        &self,
        way: Way,
        program: &ProgramFd,
        packet: &Packet,
        cpus: usize,
        each: Duration,
    ) -> anyhow::Result<(f64, f64)> {
        let far = match way {
            Way::Transmit => self.far[0],
            Way::Redirect => self.far[1],
        };
        let before = self.arrived(far).await?;
        let barrier = Barrier::new(cpus);
        let (near, barrier) = (self.near, &barrier);
        let sent = thread::scope(|scope| {
            let one = |cpu| scope.spawn(move || send(program, packet, near, cpu, each, barrier));
            let threads: Vec<_> = (0..cpus).map(one).collect();
            let sent = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
            sent.collect::<anyhow::Result<Vec<Sent>>>()
        })?;
        let packets: u64 = sent.iter().map(|sent| u64::from(sent.packets)).sum();
        let rate: f64 = sent.iter().map(|sent| 1.0 / sent.each.as_secs_f64()).sum();
        let arrived = self.arrived(far).await? - before;
        ensure!(arrived > 0, "no packet of {packets} arrived at the other end");
        ensure!(arrived <= packets, "{arrived} packets arrived of {packets}");
        let arrived = arrived as f64 / packets as f64;
        Ok((rate * arrived, 1.0 - arrived))
    }

    /// How many packets the other end has received.
    async fn arrived(&self, far: u32) -> anyhow::Result<u64> {
        let mut links = self.handle.link().get().match_index(far).execute();
        let message = links.try_next().await.context("ask for a device's counters")?.context("the device is there")?;
        let counters = message.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(counters) => Some(counters.rx_packets),
            _ => None,
        });
        counters.context("a device has counters")
    }
}

/// What a CPU has sent, and how long each packet took it. The kernel waits before and after a run, so that is the kernel's own
/// figure, and the clock is not asked.
struct Sent {
    packets: u32,
    each: Duration,
}

/// Sends from one CPU for about so long.
fn send(
    program: &ProgramFd,
    packet: &Packet,
    interface: u32,
    cpu: usize,
    time: Duration,
    barrier: &Barrier,
) -> anyhow::Result<Sent> {
    let prepared = prepare(program, packet, cpu).and_then(|mut wrapper| {
        let each = wrapper.send(packet, FIRST, interface)?;
        Ok((wrapper, each))
    });
    // Also if it failed: the others wait.
    barrier.wait();
    let (mut wrapper, each) = prepared?;
    let packets = (time.as_nanos() / each.as_nanos().max(1)).clamp(1, MOST) as u32;
    let each = wrapper.send(packet, packets, interface)?;
    Ok(Sent { packets: packets + FIRST, each })
}

fn prepare(program: &ProgramFd, packet: &Packet, cpu: usize) -> anyhow::Result<Wrapper> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("run on CPU {cpu}"))?;
    let mut wrapper = Wrapper::load()?;
    wrapper.measure(program)?;
    let mut template = packet.template(FLOWS, 1)?;
    // Each CPU has flows of its own.
    template.address ^= (cpu as u32) << 16;
    wrapper.prepare(template)?;
    Ok(wrapper)
}

fn attach(program: &mut Xdp, device: &str) -> anyhow::Result<()> {
    let attached = program.attach(device, XdpMode::Driver);
    attached.map(drop).with_context(|| format!("attach a program to the veth device {device}"))
}

/// With as many queues as there are CPUs, so that none waits for another.
fn wire(near: &str, far: &str) -> LinkMessage {
    let queues = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let queues = [LinkAttribute::NumTxQueues(queues), LinkAttribute::NumRxQueues(queues)];
    let with_queues = |attributes: &mut Vec<LinkAttribute>| attributes.extend(queues.iter().cloned());
    let mut peer = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new().name(far).build();
    with_queues(&mut peer.attributes);
    let wire = LinkVeth::new(near, far).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    let mut wire = wire.build();
    with_queues(&mut wire.attributes);
    wire
}

async fn link(handle: &Handle, name: &str) -> anyhow::Result<LinkMessage> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await.with_context(|| format!("ask for {name}"))?.with_context(|| format!("{name} is there"))
}

const fn way_name(way: Way) -> &'static str {
    match way {
        Way::Transmit => "XDP_TX",
        Way::Redirect => "redirect",
    }
}

impl Live {
    /// For a person.
    pub fn render(&self) -> String {
        let Machine { host, kernel, cpu, .. } = &self.machine;
        let mut table = Table::new();
        table.load_style(NOTHING).set_header([
            "program",
            "way out",
            "CPUs",
            "packets/s",
            "ns a packet and CPU",
            "lost",
        ]);
        for Rate { program, way, cpus, packets_per_second, lost } in &self.rates {
            table.add_row([
                program.clone(),
                way_name(*way).to_owned(),
                cpus.to_string(),
                format!("{:.2} M", packets_per_second / 1e6),
                format!("{:.0}", 1e9 * *cpus as f64 / packets_per_second),
                format!("{:.1} %", lost * 100.0),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        format!(
            "clb {} on {host}, Linux {kernel}, {cpu}\n\
             live frames over veth, {} of TCP over IPv4 for each CPU, 118 bytes each; generator, wire and receiver included\n\n{lines}",
            self.clb,
            counted(FLOWS, "flow")
        )
    }
}

const NAMES: [[&str; 2]; 2] = [["in0", "far0"], ["out0", "far1"]];
const FLOWS: u32 = 1_000;
/// Room for those of many CPUs in `full_nat`.
const MOST_FLOWS: u32 = 262_144;
/// Packets to see how fast it is.
const FIRST: u32 = 100_000;
const MOST: u128 = 100_000_000;
