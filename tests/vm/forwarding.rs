//! What it costs to forward a packet, from the driver's hand to the other end of the wire, exactly: clb in `dsr`, and the
//! kernel's own load balancer, IPVS, in the mode that does the same (direct routing), with the scheduler that does the same (`mh`).
//!
//! Both get the same packets from the same generator, a test run with live frames: what a program passes goes up the kernel's
//! stack, what it sends leaves by a veth device, and at the device's other end a program drops it. The generator, measured with a
//! program that drops each frame at once, is subtracted. Everything else counts: the way out, and the other end's drop.
//!
//! Every frame has to arrive at the other end, and IPVS has to have counted every one, or the count is none.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::XdpMode;
use clb_common::{ForwardingMode, NextHop, Protocol};
use clb_tests::{Host, Lab};
use clb_userspace::{
    bench::{BATCH, Packet, Segment, Wrapper},
    control::{DesiredListener, plan},
    dataplane::{Dataplane, ListenerId, Settings},
    slots::BackendId,
};

use crate::{instructions::steady, report::Report};

/// Reports the counts of the generator, of a program that only sends back, of clb and of IPVS, and how the last two compare.
pub fn count(report: &mut Report) {
    let mut made = None;
    report.check("has a generator, a way out, clb and IPVS", || {
        made = Some(Forwarding::prepare()?);
        Ok(format!("{BACKENDS} backends each"))
    });
    let Some(mut forwarding) = made else { return };
    let mut generator = 0;
    report.count("live frames: XDP_DROP", || {
        generator = steady(|| forwarding.measure(Way::Drop, 1))?;
        Ok(generator)
    });
    let mut count = |report: &mut Report, name: &str, way, flows| {
        let mut counted = None;
        report.count(&format!("live frames: {name}"), || {
            let count = steady(|| forwarding.measure(way, flows))?;
            let count = count.checked_sub(generator).context("nothing costs less than the generator")?;
            counted = Some(count);
            Ok(count)
        });
        counted
    };
    count(report, "MAC swap, XDP_TX", Way::SendBack, 1);
    for (name, flows) in [("one flow", 1), ("1,024 flows", MANY)] {
        let clb = count(report, &format!("clb, dsr, {name}"), Way::Clb, flows);
        let ipvs = count(report, &format!("IPVS, mh, direct routing, {name}"), Way::Ipvs, flows);
        report.check(&format!("IPVS compared to clb, {name}"), || {
            let (clb, ipvs) = clb.zip(ipvs).context("one of them was not counted")?;
            Ok(format!("{ipvs} and {clb} instructions a packet: {:.2} times as many", ipvs as f64 / clb as f64))
        });
    }
}

/// What becomes of the generator's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Drop,
    SendBack,
    Clb,
    Ipvs,
}

/// A host with a device, and what is at the device's other end.
struct Forwarding {
    host: Host,
    far_end: Host,
    device: u32,
    packet: Packet,
    wrapper: Wrapper,
    clb: Dataplane,
    _lab: Lab,
}

impl Forwarding {
    fn prepare() -> Result<Self> {
        let lab = Lab::new()?;
        let [host, far_end] = [lab.host("balancer")?, lab.host("wire")?];
        lab.link(&host, DEVICE, &far_end, DEVICE)?;
        // A device has the queue that live frames come by only while it has a program.
        lab.receive_frames(&host, DEVICE)?;
        host.run(&format!("ip link set {DEVICE} address {}", spoken(OWN_MAC)))?;
        host.add_address("10.0.1.1/24", DEVICE)?;
        host.run(&format!("ip route add default via 10.0.1.254 dev {DEVICE}"))?;
        let device = host.enter(|| nix::net::if_::if_nametoindex(DEVICE))?.context("the device has an index")?;
        let mut wrapper = Wrapper::load()?;
        far_end.enter(|| anyhow::Ok(wrapper.bare("drop")?.attach(DEVICE, XdpMode::Driver)?))??;
        start_ipvs(&host)?;
        let packet = Packet::request(Protocol::Tcp, CLIENT.into(), (VIP, PORT).into(), Segment::Established)?;
        Ok(Self { clb: load_clb(device)?, packet, host, far_end, device, wrapper, _lab: lab })
    }

    /// The instructions of a packet, with the generator's. One batch is over before the timer's next tick, mostly, and each of its frames
    /// comes in a new page: a second one would come in those of the first, but for IPVS on Linux 6.1, where the stack keeps them.
    fn measure(&mut self, way: Way, flows: u32) -> Result<u128> {
        // Tables that are filled by a first packet of each flow.
        self.send(way, flows, flows.max(BATCH))?;
        let before = (self.arrived()?, self.balanced()?);
        let count = self.send(way, flows, BATCH)?;
        let arrived = self.arrived()? - before.0;
        let expected = if way == Way::Drop { 0 } else { u64::from(BATCH) };
        ensure!(arrived == expected, "{arrived} frames of {expected} arrived at the other end");
        let balanced = self.balanced()? - before.1;
        let expected = if way == Way::Ipvs { u64::from(BATCH) } else { 0 };
        ensure!(balanced == expected, "IPVS counted {balanced} packets, not {expected}");
        Ok(count.as_nanos())
    }

    fn send(&mut self, way: Way, flows: u32, packets: u32) -> Result<Duration> {
        let Self { host, device, packet, wrapper, clb, .. } = self;
        let to = match way {
            Way::Drop => wrapper.bare("drop")?,
            Way::SendBack => wrapper.bare("swap")?,
            Way::Ipvs => wrapper.bare("pass")?,
            Way::Clb => clb.xdp()?,
        };
        let to = to.fd()?.try_clone()?;
        wrapper.measure(&to)?;
        wrapper.prepare(packet.template(flows, 1)?)?;
        host.enter(|| wrapper.send(packet, packets, *device))?
    }

    /// How many frames the program at the other end has dropped.
    fn arrived(&self) -> Result<u64> {
        let statistics = self.far_end.run(&format!("ethtool -S {DEVICE}"))?;
        let drops = statistics.lines().filter_map(|line| line.split_once("_xdp_drops: "));
        drops.map(|(_, count)| Ok(count.trim().parse::<u64>()?)).sum()
    }

    /// How many packets IPVS has taken. Below two lines of headings each CPU has a line: its number, connections, and packets, all in
    /// hexadecimal. (The totals are brought up to date every other second only.)
    fn balanced(&self) -> Result<u64> {
        let text = self.host.enter(|| fs::read_to_string("/proc/thread-self/net/ip_vs_stats_percpu"))??;
        let number = text.lines().nth(2).and_then(|line| line.split_whitespace().nth(2));
        Ok(u64::from_str_radix(number.context("IPVS has counters")?, 16)?)
    }
}

/// IPVS with its defaults, but for connections that it may learn from any segment: these packets are of established ones.
fn start_ipvs(host: &Host) -> Result<()> {
    host.run(&format!("ip address add {}/32 dev lo", shown(VIP)))?;
    host.sysctl("net.ipv4.vs.sloppy_tcp", "1")?;
    let service = format!("{}:{PORT}", shown(VIP));
    host.run(&format!("ipvsadm --add-service --tcp-service {service} --scheduler mh --sched-flags mh-port"))?;
    for number in 0..BACKENDS {
        let backend = shown(backend(number));
        host.run(&format!("ip neighbour add {backend} lladdr {} dev {DEVICE} nud permanent", spoken(BACKEND_MAC)))?;
        let server = format!("--real-server {backend}:{PORT} --gatewaying --weight 1");
        host.run(&format!("ipvsadm --add-server --tcp-service {service} {server}"))?;
    }
    Ok(())
}

/// clb with the same backends, behind the same device.
fn load_clb(device: u32) -> Result<Dataplane> {
    let weights = (0..BACKENDS).map(|number| (BackendId { address: backend(number).into(), port: PORT }, 1)).collect();
    let id = ListenerId { vip: VIP.into(), protocol: Protocol::Tcp, port: PORT };
    let listeners = BTreeMap::from([(id, DesiredListener::new(ForwardingMode::Dsr, 65_537, weights))]);
    let mut clb = Dataplane::load(Settings { hash_seed: 7, ..Settings::default() }, &listeners)?;
    let next_hop = NextHop::new(BACKEND_MAC, OWN_MAC, device, 1_500);
    let steps = plan(&listeners, &clb.actual());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(clb.apply(steps, &|_, _| next_hop))?;
    Ok(clb)
}

fn backend(number: u8) -> [u8; 4] {
    [10, 0, 1, 11 + number]
}

fn shown(address: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}

fn spoken(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

const BACKENDS: u8 = 8;
const MANY: u32 = 1_024;
const DEVICE: &str = "eth0";
const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 10], 40_000);
const VIP: [u8; 4] = [203, 0, 113, 10];
const PORT: u16 = 80;
/// What the packets are sent to.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
