//! Interfaces that go and come back, the program on them, which another one replaces when a mode is added, and the sockets
//! that tell of them.

use std::{
    fs::{self, File},
    io::Write as _,
    slice,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use clb_tests::{Agent, wait_until};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::{
    config::{Listener, Mode},
    connection::{Connection, EchoServer},
    network::{Arms, Network, PATIENCE, clients, flows, log, run, wait_for_status, xdp_programs},
};

#[test]
fn an_interface_that_returns_gets_the_program_again_and_serves() {
    let network = Network::new(Arms::Two, 2);
    let listener = Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 8081, 2);
    let _servers = network.serve(slice::from_ref(&listener));
    let agent = network.start(&network.file(slice::from_ref(&listener)), &[]);
    let balancer = &network.balancer;
    let both = ["eth0: clb", "eth1: clb"];
    for (interface, switch, addresses) in
        [("eth0", &network.front, FRONT), ("eth1", &network.back, BACK), ("eth0", &network.front, FRONT)]
    {
        assert_eq!(network.flows(&listener, 20).failures, [].into(), "before {interface} goes");
        let gone = format!("{interface} is gone");
        let before = log(&agent).matches(&gone).count();
        run(balancer, &format!("ip link delete {interface}"));
        wait_until("the agent sees that it is gone", PATIENCE, || Ok(log(&agent).matches(&gone).count() > before))
            .unwrap();
        let left = both.iter().filter(|program| !program.starts_with(interface));
        assert!(xdp_programs(balancer).iter().eq(left), "{:?}", xdp_programs(balancer));

        network.lab.plug(switch, balancer, interface).unwrap();
        for address in addresses {
            run(balancer, &format!("ip address add {address} dev {interface}"));
        }
        let mut programs = Vec::new();
        wait_until("clb is on both", PATIENCE, || {
            programs = xdp_programs(balancer);
            programs.sort();
            Ok(programs == both)
        })
        .unwrap_or_else(|error| panic!("{error:#}: {programs:?}\n{}", log(&agent)));
        // The balancer's MAC address is another one: its neighbours are not to wait until they find out.
        for host in network.backends.iter().chain([&network.client]) {
            run(host, "ip neighbour flush all");
        }
        network.introduce_clients();
        wait_for_status(&agent, "all next hops are known", |status| status.unresolved().is_empty());
        assert_eq!(network.flows(&listener, 20).failures, [].into(), "after {interface} came back");
    }
}

/// The program is loaded with the modes in use, so a reload that adds one puts another program in its place.
#[test]
fn a_mode_that_a_reload_adds_is_served_and_no_packet_is_lost_meanwhile() {
    let network = Network::new(Arms::Two, 2);
    let listener = |name: &str, port, backend_port| {
        Listener::tcp(name, &format!("203.0.113.10:{port}"), Mode::Nat, backend_port, 2)
    };
    let echo = listener("echo", 7, 7);
    let full = Listener { mode: Mode::FullNat, ..listener("full", 443, 8443) };
    let udp = Listener::udp("udp", "203.0.113.10:53", Mode::Nat, 5353, 2);
    let _servers = network.serve(&[full.clone(), udp.clone()]);
    let _echo: Vec<_> =
        echo.backends().map(|(number, backend, _)| EchoServer::start(&network.backends[number - 1], backend)).collect();
    let before = network.file(&[echo.clone(), udp.clone()]);
    let after = network.file(&[echo.clone(), udp.clone(), full.clone()]);
    network.add_source_addresses();
    let agent = network.start(&before, &[]);
    let mut connection = Connection::open(&network.client, echo.vip);
    connection.exchange(1_000);
    let sent = || agent.status().unwrap().listeners.iter().find(|live| live.name == "udp").unwrap().packets;

    let is_reloaded = AtomicBool::new(false);
    let outcomes = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut outcomes = Vec::new();
            for source in clients(true).into_iter().cycle() {
                outcomes.push(flows(&network.client, source, &udp, 100));
                if is_reloaded.load(Ordering::Relaxed) {
                    break;
                }
            }
            outcomes
        });
        wait_until("traffic flows", PATIENCE, || Ok(sent() > 0)).unwrap();
        network.reload(&agent, &after, "read again");
        connection.exchange(100_000);
        is_reloaded.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert_eq!(sent(), outcomes.len() as u64 * 100, "counters go on, and each flow was one packet");
    for outcome in outcomes {
        assert_eq!(outcome.failures, [].into(), "to the listener that stays");
    }
    assert_eq!(network.flows(&full, 40).failures, [].into(), "to the listener in `full_nat`\n{}", log(&agent));
    let drops = agent.status().unwrap().drops;
    assert_eq!(drops.values().sum::<u64>(), 0, "{drops:?}");

    // A listener in `full_nat` that goes takes its flows along; the program stays, and serves the next one.
    network.reload(&agent, &before, "read again");
    connection.exchange(1_000);
    network.reload(&agent, &after, "read again");
    assert_eq!(network.flows(&full, 40).failures, [].into(), "once more");
    connection.exchange(1_000);
}

/// A request of the agent's that the kernel refuses: the agent connects anew, and knows what changed.
#[test]
fn netlink_sockets_that_fail_are_opened_again_and_next_hops_followed() {
    let network = Network::new(Arms::Two, 2);
    let listener = Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 8081, 2);
    let _servers = network.serve(slice::from_ref(&listener));
    let agent = network.start(&network.file(slice::from_ref(&listener)), &[]);
    let mut requests = requests_socket(&agent);
    // Long enough that the kernel lists them in several datagrams.
    let routes = network.lab.directory().join("routes");
    let add = |number| format!("route add 192.168.{}.{}/32 dev eth0\n", number / 250, number % 250 + 1);
    fs::write(&routes, (0..2_000).map(add).collect::<String>()).unwrap();
    run(&network.balancer, &format!("ip -batch {}", routes.display()));
    let has_failed = || log(&agent).contains("the host's network cannot be followed, trying again");
    wait_until("the agent loses its sockets", PATIENCE, || {
        // While the kernel lists something on a socket, it refuses to list anything else there.
        requests.write_all(&LIST_ROUTES)?;
        run(&network.balancer, "ip route add 192.0.2.0/24 dev eth0");
        run(&network.balancer, "ip route delete 192.0.2.0/24 dev eth0");
        Ok(has_failed())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", log(&agent)));
    assert_eq!(network.flows(&listener, 20).failures, [].into(), "without the sockets");
    let backend = &network.backends[0];
    run(backend, "ip link set eth0 address 02:00:00:00:00:77");
    wait_for_status(&agent, "the new MAC address is known", |status| {
        let backend = status.backend("web", "10.0.1.11");
        backend.is_some_and(|backend| backend.next_hop.detail.contains("02:00:00:00:00:77"))
    });
    assert_eq!(network.flows(&listener, 20).failures, [].into(), "with new sockets");
}

/// The agent's own netlink socket for requests: the one that is in no group.
fn requests_socket(agent: &Agent) -> File {
    let process = agent.process_id();
    let table = fs::read_to_string(format!("/proc/{process}/net/netlink")).unwrap();
    // Address, protocol (0: routes and links), port, groups, …, inode.
    let inodes = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes = inodes.filter(|columns| columns[1] == "0" && columns[3] == "00000000");
    let sockets: Vec<String> = inodes.map(|columns| format!("socket:[{}]", columns[columns.len() - 1])).collect();
    let held = fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(|entry| entry.unwrap());
    let socket = held.filter(|entry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    });
    let numbers: Vec<i32> = socket.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers.len(), 1, "{table}");
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, numbers[0], PidfdGetfdFlags::empty()).unwrap().into()
}

/// `RTM_GETROUTE` with `NLM_F_REQUEST` and `NLM_F_DUMP` for IPv4, with a sequence number that the agent does not use.
const LIST_ROUTES: [u8; 28] =
    [28, 0, 0, 0, 26, 0, 1, 3, 255, 255, 255, 255, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The load balancer's addresses.
const FRONT: [&str; 2] = ["198.51.100.2/24", "2001:db8:1::2/64"];
const BACK: [&str; 2] = ["10.0.0.2/16", "fd00:10::2/64"];
