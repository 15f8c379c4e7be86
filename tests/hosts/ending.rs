//! SIGTERM and SIGINT: the agent ends well, and leaves forwarding as it is; `clb detach` leaves nothing.

use nix::sys::signal::Signal;

use clb_tests::{Agent, wait_until};

use crate::{
    config::{Listener, Mode, every_kind},
    network::{Arms, Network, PATIENCE, log, signal, xdp_programs},
};

#[test]
fn a_signal_ends_the_agent_and_detach_ends_forwarding() {
    let network = Network::new(Arms::Two, 1);
    let file = network.file(&every_kind(1));
    for (kind, said) in [(Signal::SIGTERM, "SIGTERM: ending"), (Signal::SIGINT, "SIGINT: ending")] {
        let mut agent = network.start(&file, &[]);
        assert_eq!(xdp_programs(&network.balancer), ["eth0: clb", "eth1: clb"]);
        signal(&agent, kind);
        assert_ends_well(&mut agent, said);
        assert_eq!(xdp_programs(&network.balancer), ["eth0: clb", "eth1: clb"], "{kind}");
        let detached = agent.detach_command().output().unwrap();
        let said = String::from_utf8_lossy(&detached.stderr);
        assert_eq!(said, "lb-lab: the program is off 2 interfaces, and its maps are gone\n");
        assert_eq!(xdp_programs(&network.balancer), [""; 0], "{kind}");
        let again = agent.detach_command().output().unwrap();
        assert!(
            again.status.success() && String::from_utf8_lossy(&again.stderr).contains("nothing to do"),
            "{again:?}"
        );
    }
}

/// Also while it still waits for neighbours that do not answer.
#[test]
fn a_signal_during_the_start_ends_it() {
    let network = Network::new(Arms::One, 1);
    let file = network.file(&[Listener::tcp("web", "203.0.113.10:80", Mode::Nat, 80, 2)]);
    std::fs::write(network.config(), file).unwrap();
    for (kind, said) in [(Signal::SIGTERM, "SIGTERM: ending"), (Signal::SIGINT, "SIGINT: ending")] {
        let mut agent = Agent::start(&network.lab, &network.balancer, &network.config(), &[]).unwrap();
        wait_until("it waits", PATIENCE, || Ok(log(&agent).contains("neighbours to answer"))).unwrap();
        signal(&agent, kind);
        assert_ends_well(&mut agent, said);
        assert_eq!(xdp_programs(&network.balancer), [""; 0], "{kind}");
    }
}

/// Its interface is taken away while it runs: it goes on, and ends as always.
#[test]
fn an_interface_that_goes_away_does_not_end_the_agent() {
    let network = Network::new(Arms::Two, 1);
    let mut agent = network.start(&network.file(&every_kind(1)), &[]);
    crate::network::run(&network.balancer, "ip link delete eth1");
    crate::network::wait_for_status(&agent, "its backends are unresolved", |status| {
        status.listeners.iter().flat_map(|listener| &listener.backends).all(|b| b.next_hop.state == "unresolved")
    });
    signal(&agent, Signal::SIGTERM);
    assert_ends_well(&mut agent, "SIGTERM: ending");
    assert_eq!(xdp_programs(&network.balancer), ["eth0: clb"]);
}

fn assert_ends_well(agent: &mut Agent, said: &str) {
    wait_until("the socket's file is gone", PATIENCE, || Ok(!agent.socket().exists()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", log(agent)));
    let status = agent.stop().unwrap();
    assert!(status.success(), "{status}\n{}", log(agent));
    assert!(log(agent).contains(said), "{}", log(agent));
}
