//! The packets whose cost is measured, the program that is to handle each, and one measurement.
//!
//! Every scenario runs behind `restore`, which makes each packet the first one of the next flow; without it a test run
//! would repeat the program on its own output. The first scenario is the floor: `restore` with a program that only passes.
//! The benchmark takes it with the machine's clock, and the VM test counts instructions with it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use clb_common::{
    ForwardingMode::{self, Dsr, Gue, Ipip, Nat},
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
use etherparse::PacketBuilder;

/// The loaded programs, and what to run them on.
pub struct Scenarios {
    bare: Ebpf,
    all: Vec<Scenario>,
    /// A program knows the modes of its listeners only, so each kind has one of its own.
    programs: [(&'static str, Dataplane); 2],
}

/// A packet, and the program that is to handle it.
struct Scenario {
    name: &'static str,
    program: ProgramFd,
    packet: Vec<u8>,
    verdict: u32,
}

impl Scenarios {
    /// Loads everything.
    pub fn load() -> Result<Self> {
        let mut bare =
            Ebpf::load_file(ebpf_objects().join("bare")).context("load the bare programs: as root, after a build")?;
        let [pass, swap] = [load(&mut bare, "pass")?, load(&mut bare, "swap")?];
        load(&mut bare, "restore")?;
        let mut rewriting = dataplane(&[(Dsr, 80, 80), (Nat, 8080, 8081)])?;
        let clb = rewriting.xdp()?.fd()?.try_clone()?;
        let mut tunnels = dataplane(&[(Ipip, 80, 80), (Gue, 81, 81)])?;
        let tunnel = tunnels.xdp()?.fd()?.try_clone()?;

        let all = vec![
            Scenario { name: "XDP_PASS", program: pass, packet: packet(Tcp, CLIENT, ELSEWHERE), verdict: PASS },
            Scenario { name: "MAC swap, XDP_TX", program: swap, packet: packet(Tcp, CLIENT, ELSEWHERE), verdict: TX },
            clb_scenario(&clb, "not for a listener", packet(Tcp, CLIENT, ELSEWHERE), PASS)?,
            clb_scenario(&clb, "dsr, TCP, IPv4", packet(Tcp, CLIENT, "203.0.113.10:80"), TX)?,
            clb_scenario(&clb, "dsr, UDP, IPv4", packet(Udp, CLIENT, "203.0.113.10:80"), TX)?,
            clb_scenario(&clb, "dsr, TCP, IPv6", packet(Tcp, CLIENT_V6, "[2001:db8::10]:80"), TX)?,
            clb_scenario(&clb, "nat, TCP, IPv4", packet(Tcp, CLIENT, "203.0.113.10:8080"), TX)?,
            clb_scenario(&clb, "nat, UDP, IPv4", packet(Udp, CLIENT, "203.0.113.10:8080"), TX)?,
            clb_scenario(&clb, "nat, TCP, IPv6", packet(Tcp, CLIENT_V6, "[2001:db8::10]:8080"), TX)?,
            clb_scenario(&clb, "nat reply, TCP, IPv4", packet(Tcp, "10.0.1.11:8081", CLIENT), TX)?,
            clb_scenario(&clb, "nat reply, TCP, IPv6", packet(Tcp, "[fd00::11]:8081", CLIENT_V6), TX)?,
            clb_scenario(&tunnel, "not for a listener, no nat", packet(Tcp, CLIENT, ELSEWHERE), PASS)?,
            clb_scenario(&tunnel, "ipip, TCP, IPv4", packet(Tcp, CLIENT, "203.0.113.10:80"), TX)?,
            clb_scenario(&tunnel, "ipip, TCP, IPv6", packet(Tcp, CLIENT_V6, "[2001:db8::10]:80"), TX)?,
            clb_scenario(&tunnel, "gue, TCP, IPv4", packet(Tcp, CLIENT, "203.0.113.10:81"), TX)?,
            clb_scenario(&tunnel, "gue, TCP, IPv6", packet(Tcp, CLIENT_V6, "[2001:db8::10]:81"), TX)?,
        ];
        Ok(Self { bare, all, programs: [("dsr and nat", rewriting), ("ipip and gue", tunnels)] })
    }

    /// The scenarios' names, the floor first.
    pub fn names(&self) -> Vec<&'static str> {
        self.all.iter().map(|scenario| scenario.name).collect()
    }

    /// The time per packet of the scenario with this index, with what `restore` costs.
    pub fn measure(&mut self, scenario: usize, flows: u32, repeat: u32) -> Result<Duration> {
        measure(&mut self.bare, &self.all[scenario], flows, repeat)
    }

    /// The size of the programs, before and after the kernel's compiler.
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
    // A reply's source is its backend: there the client is the destination.
    let back = usize::from(scenario.name.contains("reply"));
    let (address_at, ports_at) = if is_ipv6 { (34 + back * 16, 54 + back * 2) } else { (26 + back * 4, 34 + back * 2) };
    let template = Template {
        headers,
        flow: 0,
        flow_mask: flows - 1,
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

fn clb_scenario(program: &ProgramFd, name: &'static str, packet: Vec<u8>, verdict: u32) -> Result<Scenario> {
    Ok(Scenario { name, program: program.try_clone()?, packet, verdict })
}

fn load(bare: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut Xdp = bare.program_mut(name).with_context(|| format!("program {name}"))?.try_into()?;
    program.load()?;
    Ok(program.fd()?.try_clone()?)
}

/// A program with its maps, as the agent loads them, with listeners of these modes, ports and backends' ports, which have
/// eight backends each.
fn dataplane(modes: &[(ForwardingMode, u16, u16)]) -> Result<Dataplane> {
    let mut listeners = std::collections::BTreeMap::new();
    for (vip, prefix) in [("203.0.113.10", "10.0.1."), ("2001:db8::10", "fd00::")] {
        for protocol in [Tcp, Udp] {
            for &(mode, port, backend_port) in modes {
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

const CLIENT: &str = "198.51.100.10:40000";
const CLIENT_V6: &str = "[2001:db8:ffff::10]:40000";
const ELSEWHERE: &str = "192.0.2.7:80";
const LOOPBACK: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
