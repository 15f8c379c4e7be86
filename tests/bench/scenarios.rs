//! The packets whose cost is measured, the program that is to handle each, and one measurement.
//!
//! Every scenario runs behind `restore`, which makes each packet the first one of the next flow; without it a test run
//! would repeat the program on its own output. The first scenario is the floor: `restore` with a program that only passes.
//! The benchmark takes it with the machine's clock, and the VM test counts instructions with it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use clb_common::{
    ForwardingMode::{self, Dsr, FullNat, Gue, Ipip, Nat},
    NextHop,
    Protocol::{self, Tcp, Udp},
    bench::{HEADER_WORDS, Template},
};
use clb_tests::ebpf_objects;
use clb_userspace::{
    control::{DesiredListener, plan},
    dataplane::{Dataplane, ListenerId, Settings},
    network::Prefix,
    slots::BackendId,
};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};

/// The loaded programs, and what to run them on.
pub struct Scenarios {
    bare: Ebpf,
    all: Vec<Scenario>,
    /// A program knows the modes of its listeners only, so what a mode costs hangs on those beside it.
    programs: Vec<(&'static str, Dataplane)>,
}

/// A packet, and the program that is to handle it.
struct Scenario {
    name: String,
    program: ProgramFd,
    packet: Vec<u8>,
    verdict: u32,
    varied: Varied,
    most_flows: u32,
}

/// What of the packet differs from flow to flow.
#[derive(Clone, Copy)]
enum Varied {
    /// The source.
    Source,
    /// The destination, in what a backend sends to a client.
    Destination,
    /// Nothing: the flow has to be one that the program remembers. The TCP sequence number varies instead.
    Sequence,
}

impl Scenarios {
    /// Loads everything.
    pub fn load() -> Result<Self> {
        let mut bare =
            Ebpf::load_file(ebpf_objects().join("bare")).context("load the bare programs: as root, after a build")?;
        let [pass, swap] = [load(&mut bare, "pass")?, load(&mut bare, "swap")?];
        load(&mut bare, "restore")?;
        let elsewhere = || packet(Tcp, CLIENT, ELSEWHERE);
        let mut all = vec![
            scenario("XDP_PASS", &pass, elsewhere(), PASS, Varied::Source)?,
            scenario("MAC swap, XDP_TX", &swap, elsewhere(), TX, Varied::Source)?,
        ];
        let mut programs = Vec::new();
        for (loaded_with, modes) in [
            ("dsr and nat", &[Dsr, Nat][..]),
            ("dsr", &[Dsr]),
            ("nat", &[Nat]),
            ("ipip and gue", &[Ipip, Gue]),
            ("full_nat", &[FullNat]),
            ("every mode", &ForwardingMode::ALL),
        ] {
            let mut dataplane = dataplane(modes)?;
            all.extend(scenarios(loaded_with, modes, dataplane.xdp()?)?);
            programs.push((loaded_with, dataplane));
        }
        Ok(Self { bare, all, programs })
    }

    /// The scenarios' names, the floor first.
    pub fn names(&self) -> Vec<String> {
        self.all.iter().map(|scenario| scenario.name.clone()).collect()
    }

    /// The time per packet of the scenario with this index, with what `restore` costs.
    pub fn measure(&mut self, scenario: usize, flows: u32, repeat: u32) -> Result<Duration> {
        measure(&mut self.bare, &self.all[scenario], flows, repeat)
    }

    /// The size of the entry programs, before and after the kernel's compiler.
    pub fn describe_programs(&mut self) -> Result<String> {
        let mut all = Vec::new();
        for (modes, dataplane) in &mut self.programs {
            let info = dataplane.xdp()?.info()?;
            all.push(format!(
                "for {modes}: {} instructions verified, {} bytes of BPF ({} instructions), {} bytes of machine code",
                info.verified_instruction_count().unwrap_or_default(),
                info.size_translated().unwrap_or_default(),
                info.size_translated().unwrap_or_default() / 8,
                info.size_jitted(),
            ));
        }
        Ok(all.join("; "))
    }
}

fn measure(bare: &mut Ebpf, scenario: &Scenario, flows: u32, repeat: u32) -> Result<Duration> {
    let is_ipv6 = scenario.packet[12..14] == [0x86, 0xdd];
    let mut headers = [0; HEADER_WORDS];
    for (word, bytes) in headers.iter_mut().zip(scenario.packet.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into()?);
    }
    let (address, ports): (usize, usize) = if is_ipv6 { (22, 54) } else { (26, 34) };
    let (address_at, ports_at) = match scenario.varied {
        Varied::Source => (address + if is_ipv6 { 12 } else { 0 }, ports),
        Varied::Destination => (address + if is_ipv6 { 28 } else { 4 }, ports + 2),
        Varied::Sequence => (address, ports + 4),
    };
    let template = Template {
        headers,
        flow: 0,
        flow_mask: flows.min(scenario.most_flows) - 1,
        ports_at: ports_at as u32,
        address_at: address_at as u32,
        address: u32::from_ne_bytes(scenario.packet[address_at..address_at + 4].try_into()?),
        length: scenario.packet.len() as u32,
    };
    Array::try_from(bare.map_mut("TEMPLATE").context("map TEMPLATE")?)?.set(0, template, 0)?;
    ProgramArray::try_from(bare.map_mut("MEASURED").context("map MEASURED")?)?.set(0, &scenario.program, 0)?;
    let restore: &mut Xdp = bare.program_mut("restore").context("program restore")?.try_into()?;
    let options = TestRunOptions { data_in: Some(&scenario.packet), repeat, ..TestRunOptions::default() };
    let result = restore.test_run(options)?;
    anyhow::ensure!(result.return_value == scenario.verdict, "{}: verdict {}", scenario.name, result.return_value);
    Ok(result.duration)
}

fn scenario(name: &str, program: &ProgramFd, packet: Vec<u8>, verdict: u32, varied: Varied) -> Result<Scenario> {
    Ok(Scenario { name: name.to_owned(), program: program.try_clone()?, packet, verdict, varied, most_flows: u32::MAX })
}

/// A packet of each kind for a program that was loaded with these modes.
fn scenarios(loaded_with: &str, modes: &[ForwardingMode], program: &mut Xdp) -> Result<Vec<Scenario>> {
    let fd = program.fd()?.try_clone()?;
    let name = |what: &str| format!("{loaded_with}: {what}");
    let mut all =
        vec![scenario(&name("not for a listener"), &fd, packet(Tcp, CLIENT, ELSEWHERE), PASS, Varied::Source)?];
    for &mode in modes {
        for (family, client, vip, backend) in
            [("IPv4", CLIENT, "203.0.113.10", "10.0.1.11"), ("IPv6", CLIENT_V6, "[2001:db8::10]", "[fd00::11]")]
        {
            let (port, backend_port) = ports(mode);
            for protocol in [Tcp, Udp] {
                let kind = format!("{}, {family}", protocol.name());
                let request = packet(protocol, client, &format!("{vip}:{port}"));
                let reply = match mode {
                    Nat => Some((packet(protocol, &format!("{backend}:{backend_port}"), client), Varied::Destination)),
                    // Its flow is there once a packet of the client came by.
                    FullNat if protocol == Tcp => Some((answer(program, &request)?, Varied::Sequence)),
                    FullNat | Dsr | Ipip | Gue => None,
                };
                let request = [(mode.name().to_owned(), (request, Varied::Source))];
                let reply = reply.map(|reply| (format!("{} reply", mode.name()), reply));
                for (what, (packet, varied)) in request.into_iter().chain(reply) {
                    let scenario = scenario(&name(&format!("{what}, {kind}")), &fd, packet, TX, varied)?;
                    let most_flows = if mode == FullNat { REMEMBERED_FLOWS } else { scenario.most_flows };
                    all.push(Scenario { most_flows, ..scenario });
                }
            }
        }
    }
    Ok(all)
}

/// What the backend answers to this request: the same TCP packet with its ends exchanged.
fn answer(program: &Xdp, request: &[u8]) -> Result<Vec<u8>> {
    let mut sent = vec![0; request.len()];
    let options = TestRunOptions { data_in: Some(request), data_out: Some(&mut sent), ..TestRunOptions::default() };
    let verdict = program.test_run(options)?.return_value;
    anyhow::ensure!(verdict == TX, "a client's first packet: verdict {verdict}");
    let headers = PacketHeaders::from_ethernet_slice(&sent)?;
    let (from, to): (IpAddr, IpAddr) = match headers.net.context("an IP packet")? {
        NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Arp(_) => anyhow::bail!("an ARP packet"),
    };
    let ports = headers.transport.and_then(TransportHeader::tcp).context("a TCP packet")?;
    let [from, to] = [(from, ports.source_port), (to, ports.destination_port)].map(SocketAddr::from);
    Ok(packet(Tcp, &to.to_string(), &from.to_string()))
}

/// The port of a listener in this mode, and that of its backends.
fn ports(mode: ForwardingMode) -> (u16, u16) {
    match mode {
        Dsr => (80, 80),
        Ipip => (81, 81),
        Gue => (82, 82),
        Nat => (8080, 8081),
        FullNat => (9090, 9091),
    }
}

fn load(bare: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut Xdp = bare.program_mut(name).with_context(|| format!("program {name}"))?.try_into()?;
    program.load()?;
    Ok(program.fd()?.try_clone()?)
}

/// A program with its maps, as the agent loads them, with listeners of these modes, which have eight backends each.
fn dataplane(modes: &[ForwardingMode]) -> Result<Dataplane> {
    let mut listeners = std::collections::BTreeMap::new();
    for (vip, prefix) in [("203.0.113.10", "10.0.1."), ("2001:db8::10", "fd00::")] {
        for protocol in [Tcp, Udp] {
            for &mode in modes {
                let (port, backend_port) = ports(mode);
                let backend = |number| {
                    let address = format!("{prefix}{number}").parse().expect("an address");
                    (BackendId { address, port: backend_port }, 10)
                };
                let id = ListenerId { vip: vip.parse()?, protocol, port };
                let weights = (11..19).map(backend).collect();
                listeners.insert(id, DesiredListener { mode, slots: 65_537, weights });
            }
        }
    }
    let settings = Settings { hash_seed: 7, ..Settings::default() };
    let mut dataplane = Dataplane::load(settings, &listeners)?;
    let sources = (1..=32).flat_map(|number| [format!("10.0.9.{number}"), format!("fd00::9:{number}")]);
    dataplane.set_sources(&sources.map(|source| source.parse()).collect::<Result<Vec<_>, _>>()?)?;
    let next_hop = NextHop::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], LOOPBACK, 1_500);
    let routes = [("0.0.0.0", 0), ("::", 0)]
        .map(|(address, length)| (Prefix::new(address.parse().expect("an address"), length), next_hop));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let steps = plan(&listeners, &dataplane.actual());
        dataplane.apply(steps, &|_, _| next_hop).await?;
        dataplane.update_next_hops(&|_, _| next_hop, routes.into()).await
    })?;
    Ok(dataplane)
}

fn packet(protocol: Protocol, from: &str, to: &str) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().expect("an endpoint"), to.parse().expect("an endpoint"));
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let network = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => ethernet.ipv4(from.ip().octets(), to.ip().octets(), 64),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => ethernet.ipv6(from.ip().octets(), to.ip().octets(), 64),
        _ => unreachable!("both ends are of one family"),
    };
    let (from, to) = (from.port(), to.port());
    let mut bytes = Vec::new();
    match protocol {
        Tcp => network.tcp(from, to, 1, 1_024).write(&mut bytes, &[0; 64]),
        Udp => network.udp(from, to).write(&mut bytes, &[0; 64]),
    }
    .expect("a vector takes all");
    bytes
}

/// The flow table holds as many for each listener in `full_nat`, and ports alone tell so many flows apart.
const REMEMBERED_FLOWS: u32 = 1 << 15;
const CLIENT: &str = "198.51.100.10:40000";
const CLIENT_V6: &str = "[2001:db8:ffff::10]:40000";
const ELSEWHERE: &str = "192.0.2.7:80";
const LOOPBACK: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
