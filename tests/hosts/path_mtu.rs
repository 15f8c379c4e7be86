//! Path MTU discovery: a link of 1,400 bytes in the middle of the way, of which no end of a connection knows beforehand.
//!
//! What must stay true: both ends believe in 1,500 bytes when a connection begins, so its first full segments are too
//! big, and nothing but an error that reaches their sender makes them smaller. The kernel's memory of path MTUs is emptied
//! before each row, and at its end it is as the errors say.

use std::net::IpAddr;

use clb_tests::{Agent, Host, Lab, Protocol, wait_until};

use crate::{
    config::{Listener, Mode, SOURCE_V4, SOURCE_V6, backend_address, every_mode},
    datagrams, http,
    network::{Arms, Network, PATIENCE, log, run},
    own_traffic::source_toward,
    services::offer,
};

/// Errors about what backends sent are about packets from the VIP, and come to the load balancer.
#[test]
fn before_the_load_balancer() {
    let network = Network::for_every_mode();
    let Network { lab, front, balancer, backends, .. } = &network;
    let hop = Hop::new(lab);
    let far_client = lab.host("far-client").unwrap();
    lab.plug(front, &hop.near, "eth0").unwrap();
    lab.link(&hop.far, "eth1", &far_client, "eth0").unwrap();
    for (host, device, addresses) in [
        (&hop.near, "eth0", ["198.51.100.1/24", "2001:db8:1::1/64"]),
        (&hop.far, "eth1", ["192.0.2.1/24", "2001:db8:2::1/64"]),
        (&far_client, "eth0", ["192.0.2.10/24", "2001:db8:2::10/64"]),
    ] {
        add_addresses(host, device, addresses);
    }
    for (host, words) in [
        (&far_client, "route add default via 192.0.2.1"),
        (&far_client, "route add default via 2001:db8:2::1"),
        (&hop.far, "route add default via 192.168.7.1"),
        (&hop.far, "route add default via fd00:7::1"),
        (&hop.near, "route add 192.0.2.0/24 via 192.168.7.2"),
        (&hop.near, "route add 2001:db8:2::/64 via fd00:7::2"),
        (&hop.near, "route add 203.0.113.0/24 via 198.51.100.2"),
        (&hop.near, "route add 2001:db8:113::/64 via 2001:db8:1::2"),
        (balancer, "route add default via 198.51.100.1"),
        (balancer, "route add default via 2001:db8:1::1"),
    ] {
        run(host, &format!("ip {words}"));
    }
    network.answer_directly("192.0.2.0/24", "198.51.100.1");
    network.answer_directly("2001:db8:2::/64", "2001:db8:1::1");
    let listeners = network.in_every_mode().into_iter().map(|mut listener| {
        // One end is to learn, not one of two.
        let first = listener.weights.iter().position(|weight| *weight > 0).unwrap();
        listener.weights.truncate(first + 1);
        listener
    });
    let listeners: Vec<_> = listeners.collect();
    let _services = network.offer(&listeners);
    let _decaps = network.decap(&[]);
    let agent = network.start(&network.file(&listeners), &[]);
    for listener in &listeners {
        let ends = Ends { client: &far_client, backend: &backends[listener.weights.len() - 1] };
        ends.assert_found(&agent, listener, [Some(1_400), Some(1_400)]);
    }
}

/// Errors about what the client sent are about packets that the load balancer changed. In `dsr`, there is no router behind
/// it: see below.
#[test]
fn behind_the_load_balancer() {
    let network = Network::new(Arms::Two, 1);
    let Network { lab, back, balancer, client, backends, .. } = &network;
    let backend = &backends[0];
    network.add_source_addresses();
    let hop = Hop::new(lab);
    lab.plug(back, &hop.near, "eth0").unwrap();
    run(backend, "ip link delete eth0");
    lab.link(&hop.far, "eth1", backend, "eth0").unwrap();
    add_addresses(&hop.near, "eth0", ["10.0.0.3/16", "fd00:10::3/64"]);
    add_addresses(&hop.far, "eth1", ["10.0.1.1/24", "fd00:10::1:1/112"]);
    // An address for each row, so that none profits from what an earlier one taught the load balancer.
    let mut listeners = every_mode(0);
    listeners.retain(|listener| listener.mode != Mode::Dsr);
    for (number, listener) in (1..).zip(&mut listeners) {
        listener.weights = vec![0; number];
        listener.weights[number - 1] = 10;
        add_addresses(
            backend,
            "eth0",
            [format!("{}/24", backend_address(number, true)), format!("{}/112", backend_address(number, false))],
        );
    }
    for (host, words) in [
        (backend, "route replace default via 10.0.1.1"),
        (backend, "route replace default via fd00:10::1:1"),
        (&hop.far, "route add default via 192.168.7.1"),
        (&hop.far, "route add default via fd00:7::1"),
        (&hop.near, "route add 10.0.1.0/24 via 192.168.7.2"),
        (&hop.near, "route add fd00:10::1:0/112 via fd00:7::2"),
        (&hop.near, "route add default via 10.0.0.2"),
        (&hop.near, "route add default via fd00:10::2"),
        (balancer, "route add 10.0.1.0/24 via 10.0.0.3"),
        (balancer, "route add fd00:10::1:0/112 via fd00:10::3"),
    ] {
        run(host, &format!("ip {words}"));
    }
    let _services = offer(backend, &listeners, |_| true);
    let _decaps = network.decap(&[]);
    let agent = network.start(&network.file(&listeners), &[]);
    for listener in &listeners {
        let ends = Ends { client, backend };
        let download = (!listener.keeps_destination()).then_some(1_400);
        ends.assert_found(&agent, listener, [Some(fits(listener)), download]);
    }
}

/// Here it is the load balancer that tells the client.
#[test]
fn on_the_load_balancer_s_own_link() {
    let network = Network::new(Arms::Two, 1);
    let Network { back, balancer, client, backends, .. } = &network;
    let mut listeners = every_mode(1);
    // Answers of the others come back by that link, and nothing in front of it would say that they do not fit.
    listeners.retain(Listener::keeps_destination);
    let _services = network.offer(&listeners);
    let _decaps = network.decap(&[]);
    let agent = network.start(&network.file(&listeners), &[]);
    run(back, "ip link set lb-eth1 mtu 1400");
    run(balancer, "ip link set eth1 mtu 1400");
    for listener in &listeners {
        let ends = Ends { client, backend: &backends[0] };
        ends.assert_found(&agent, listener, [Some(fits(listener)), None]);
    }
}

/// The ends of a connection.
struct Ends<'a> {
    client: &'a Host,
    backend: &'a Host,
}

impl Ends<'_> {
    /// Data goes both ways, and the client and the backend learn these path MTUs; over TCP each in a connection of its own,
    /// for an end that has learned it has the other one send smaller segments.
    fn assert_found(&self, agent: &Agent, listener: &Listener, [upload, download]: [Option<u32>; 2]) {
        let client = self.client;
        let (name, vip) = (&listener.name, listener.vip);
        let done = |way: &str, result: Result<(), String>| {
            result.unwrap_or_else(|error| {
                panic!("{name}: {way}: {error}\n{:#?}\n{}", agent.status().unwrap().drops, log(agent))
            });
        };
        self.forget(listener);
        match listener.protocol {
            Protocol::Tcp => {
                done("upload", http::upload(client, vip, LENGTH));
                assert_eq!(self.learned(listener)[0], upload, "{name}: upload");
                self.forget(listener);
                done("download", http::download(client, vip, LENGTH));
                assert_eq!(self.learned(listener)[1], download, "{name}: download");
            }
            Protocol::Udp => {
                wait_until("a large datagram comes back", PATIENCE, || Ok(datagrams::comes_back(client, vip, 1_450)))
                    .unwrap_or_else(|error| panic!("{name}: {error:#}"));
                assert_eq!(self.learned(listener), [upload, download], "{name}");
                let sizes = (1_280..=1_500).step_by(4).chain([4_000, 9_000]);
                done("datagrams", datagrams::exchange(client, vip, sizes));
            }
        }
    }

    fn forget(&self, listener: &Listener) {
        for end in [self.client, self.backend] {
            for family in ["-4", "-6"] {
                run(end, &format!("ip {family} route flush table all cached"));
            }
        }
        assert_eq!(self.learned(listener), [None, None], "{}: before", listener.name);
    }

    /// What the kernels of the client and the backend learned of the way to each other.
    fn learned(&self, listener: &Listener) -> [Option<u32>; 2] {
        let (_, backend, _) = listener.backends().last().unwrap();
        let client_address = match (listener.mode, source_toward(self.client, listener.vip)) {
            (Mode::FullNat, IpAddr::V4(_)) => SOURCE_V4.parse().unwrap(),
            (Mode::FullNat, IpAddr::V6(_)) => SOURCE_V6.parse().unwrap(),
            (_, address) => address,
        };
        let server = listener.server_address(backend).ip();
        [
            path_mtu(self.client, &listener.vip.ip().to_string()),
            path_mtu(self.backend, &format!("{client_address} from {server}")),
        ]
    }
}

/// How large the client's packets may be so that they fit the hop, with what is around them.
fn fits(listener: &Listener) -> u32 {
    let around = match (listener.mode, listener.backend_is_ipv4) {
        (Mode::Ipip, true) => 20,
        (Mode::Ipip, false) => 40,
        (Mode::Gue, true) => 20 + 8 + 4,
        (Mode::Gue, false) => 40 + 8 + 4,
        (Mode::Dsr | Mode::Nat | Mode::FullNat, _) => 0,
    };
    1_400 - around
}

/// What the kernel of a host knows of a way.
fn path_mtu(host: &Host, way: &str) -> Option<u32> {
    let route = run(host, &format!("ip route get {way}"));
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    words.next().map(|mtu| mtu.parse().unwrap())
}

fn add_addresses(host: &Host, device: &str, addresses: [impl AsRef<str>; 2]) {
    for address in addresses {
        host.add_address(address.as_ref(), device).unwrap();
    }
}

/// Two routers and the link between them.
struct Hop {
    near: Host,
    far: Host,
}

impl Hop {
    fn new(lab: &Lab) -> Self {
        let [near, far] = ["near", "far"].map(|label| lab.host(label).unwrap());
        lab.link(&near, "hop", &far, "hop").unwrap();
        for (host, addresses) in
            [(&near, ["192.168.7.1/24", "fd00:7::1/64"]), (&far, ["192.168.7.2/24", "fd00:7::2/64"])]
        {
            run(host, "ip link set hop mtu 1400");
            add_addresses(host, "hop", addresses);
            host.sysctl("net.ipv4.ip_forward", "1").unwrap();
            host.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        }
        Self { near, far }
    }
}

const LENGTH: usize = 2_000_000;
