//! The host's own traffic, and what it forwards for others, is none of clb's business.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use clb_tests::{Agent, Flows, Host, Protocol, Server, Servers};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvmsg, sendmsg, setsockopt,
        socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

use crate::{
    config::every_kind,
    network::{Arms, INNER_V4, INNER_V6, Network, run},
};

#[test]
fn what_is_for_no_listener_goes_its_way_as_if_clb_were_not_there() {
    let network = Network::new(Arms::Two, 1);
    let Network { client, balancer, backends, .. } = &network;
    balancer.sysctl("net.ipv4.ip_forward", "1").unwrap();
    balancer.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
    // The host has the VIPs itself.
    balancer.add_address("203.0.113.10/32", "lo").unwrap();
    balancer.add_address("2001:db8:113::10/128", "lo").unwrap();
    run(client, "ip route add 10.0.0.0/16 via 198.51.100.2");
    run(client, "ip -6 route add fd00:10::/64 via 2001:db8:1::2");
    let listeners = every_kind(1);
    let _servers = network.serve(&listeners);
    let agent = network.start(&network.file(&listeners), &[]);

    let (vips, own) = (["203.0.113.10", "2001:db8:113::10"], ["198.51.100.2", "2001:db8:1::2"]);
    let answered = |address: &str| {
        let before = agent.status().unwrap().answered;
        assert_passes(&agent, 0, || assert!(ping(client, address.parse().unwrap()), "{address} does not answer"));
        agent.status().unwrap().answered - before
    };
    for address in own.into_iter().chain(["10.0.1.11", "fd00:10::1:b"]) {
        assert_eq!(answered(address), 0, "{address} answers for itself");
    }
    for vip in vips {
        assert_eq!(answered(vip), 1, "clb answers for {vip}");
    }
    // Nobody has them, and clb does not say that anybody did.
    for address in ["203.0.113.11", "2001:db8:113::11"] {
        assert!(!ping(client, address.parse().unwrap()), "{address} answers");
    }
    assert_eq!(agent.status().unwrap().answered, 2);
    for (host, server, listen) in [
        (client, balancer, "198.51.100.2:22"),
        (client, balancer, "[2001:db8:1::2]:22"),
        (client, balancer, "203.0.113.10:22"),
        (client, balancer, "[2001:db8:113::10]:22"),
        // Another protocol on a listener's port.
        (client, balancer, "203.0.113.10:53"),
        (&backends[0], balancer, "10.0.0.2:22"),
        (&backends[0], balancer, "[fd00:10::2]:22"),
        // Forwarded: from a client to a backend's own service, and from a backend out into the world.
        (&backends[0], client, "198.51.100.10:443"),
        (&backends[0], client, "[2001:db8:1::10]:443"),
    ] {
        let listen: SocketAddr = listen.parse().unwrap();
        assert_passes(&agent, 60, || assert_serves(host, server, listen, Protocol::Tcp));
    }
    assert_passes(&agent, 60, || {
        assert_serves(client, &backends[0], "10.0.1.11:22".parse().unwrap(), Protocol::Tcp);
    });
    assert_passes(&agent, 20, || {
        assert_serves(client, balancer, "203.0.113.10:8080".parse().unwrap(), Protocol::Udp);
    });
    // And the listeners still are the listeners'.
    for listener in &listeners {
        assert_eq!(network.flows(listener, 20).failures, [].into(), "{}", listener.name);
    }
    assert_eq!(agent.status().unwrap().drops.values().sum::<u64>(), 0);
    assert_eq!([INNER_V4, INNER_V6].map(|address| ping(&backends[0], address.parse().unwrap())), [true; 2]);
}

/// So many packets at least are counted as passed, and none for a listener.
fn assert_passes(agent: &Agent, packets: u64, traffic: impl FnOnce()) {
    let before = agent.status().unwrap();
    traffic();
    let after = agent.status().unwrap();
    assert!(after.passed >= before.passed + packets, "{} packets passed", after.passed - before.passed);
    for (listener, earlier) in after.listeners.iter().zip(&before.listeners) {
        assert_eq!(listener.packets, earlier.packets, "{}", listener.name);
    }
}

fn assert_serves(client: &Host, host: &Host, listen: SocketAddr, protocol: Protocol) {
    let identity = "the host itself".to_owned();
    let server = Server { listen, protocol, device: String::new(), identity };
    let _servers = Servers::start(host, vec![server]).unwrap();
    let source = source_toward(client, listen);
    let flows = Flows { target: listen, protocol, sources: vec![source], count: 20 };
    let outcome = flows.run(client, || {}).unwrap();
    assert_eq!(outcome.failures, [].into(), "{protocol} to {listen}");
    assert_eq!(outcome.answers, [("the host itself".to_owned(), 20)].into(), "{protocol} to {listen}");
}

/// The address that the kernel of a host would use toward this one.
pub fn source_toward(host: &Host, target: SocketAddr) -> IpAddr {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let source = host.enter(|| {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.local_addr()
    });
    source.unwrap().unwrap().ip()
}

/// Whether an address answers an echo request of this host within a second. A host that knows no way says so at once.
pub fn ping(host: &Host, address: IpAddr) -> bool {
    host.sysctl("net.ipv4.ping_group_range", "0 0").unwrap();
    host.enter(|| {
        let (family, protocol, request, reply) = if address.is_ipv4() {
            (AddressFamily::Inet, SockProtocol::Icmp, 8, 0)
        } else {
            (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129)
        };
        let socket = socket(family, SockType::Datagram, SockFlag::empty(), protocol).unwrap();
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(1, 0)).unwrap();
        let message = [request, 0, 0, 0, 0, 0, 0, 1, b'h', b'i'];
        let target = SockaddrStorage::from(SocketAddr::new(address, 0));
        if sendmsg(socket.as_raw_fd(), &[IoSlice::new(&message)], &[], MsgFlags::empty(), Some(&target)).is_err() {
            return false;
        }
        let mut answer = [0; 64];
        let mut parts = [IoSliceMut::new(&mut answer)];
        let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty());
        received.is_ok_and(|received| received.bytes == message.len()) && answer[0] == reply
    })
    .unwrap()
}
