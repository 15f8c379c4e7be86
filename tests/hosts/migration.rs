//! An ENI that moves to another CVM: its flows stay its own, and follow it.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clb_tests::Host;

use crate::{
    config::{Listener, Mode},
    network::{Arms, Network, log, run, wait_for_status},
};

#[test]
fn an_eni_that_moves_takes_its_flows_along() {
    // The new host announces itself; or says nothing, and the configuration tells.
    for announces in [true, false] {
        let network = Network::new(Arms::One, 2);
        let [old, new] = [&network.backends[0], &network.backends[1]];
        let listener = Listener::udp("udp", "203.0.113.10:53", Mode::Dsr, 53, 2);
        old.add_address(ENI, "eth0").unwrap();
        let agent = network.start(&file(1), &[]);
        let (on_old, on_new) = (Counting::start(old, listener.vip), Counting::start(new, listener.vip));
        let client = network.client.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        client.connect(listener.vip).unwrap();
        let send = |until: &dyn Fn() -> bool| {
            let began = Instant::now();
            while !until() {
                assert!(began.elapsed() < Duration::from_secs(10), "announces: {announces}\n{}", log(&agent));
                client.send(&[0; 32]).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            began.elapsed()
        };
        send(&|| on_old.has_some());

        run(old, &format!("ip address delete {ENI} dev eth0"));
        new.add_address(ENI, "eth0").unwrap();
        if announces {
            run(new, "ip link set eth0 address 02:00:00:00:00:77");
        } else {
            fs::write(network.config(), file(2)).unwrap();
            let applied = agent.command("apply").arg(network.config()).output().unwrap();
            assert!(applied.status.success(), "{applied:?}");
        }
        println!("announces: {announces}: traffic is back after {:?}", send(&|| on_new.has_some()));
        let status = wait_for_status(&agent, "the next hop is known", |status| status.unresolved().is_empty());
        let of = &status.listeners[0];
        assert_eq!((of.moving_slots, of.settling_slots, status.pins), (0, 0, 0), "no slot moves, no flow is pinned");
    }
}

/// A server that answers nothing, and knows whether a datagram came since it began.
struct Counting {
    has_some: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Counting {
    fn start(host: &Host, address: SocketAddr) -> Self {
        let socket = host.enter(|| UdpSocket::bind(address).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (has_some, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&has_some), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if socket.recv(&mut [0; 64]).is_ok() {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
        Self { has_some, stop, thread: Some(thread) }
    }

    fn has_some(&self) -> bool {
        self.has_some.load(Ordering::Relaxed)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The only backend is a secondary ENI, attached to this CVM.
fn file(cvm: u8) -> String {
    format!(
        "version: 1
load_balancer: {{id: lb-lab, vpc: vpc-lab, interfaces: [eth0]}}
cvms:
  - {{id: ins-1, vpc: vpc-lab, zone: zone-1}}
  - {{id: ins-2, vpc: vpc-lab, zone: zone-1}}
enis:
  - {{id: eni-1, role: primary, vpc: vpc-lab, zone: zone-1, attached_to: ins-1, primary_ip: 10.0.1.11}}
  - {{id: eni-2, role: primary, vpc: vpc-lab, zone: zone-1, attached_to: ins-2, primary_ip: 10.0.1.12}}
  - {{id: eni-9, role: secondary, vpc: vpc-lab, zone: zone-1, attached_to: ins-{cvm}, primary_ip: 10.0.1.99}}
listeners:
  - {{name: udp, vip: 203.0.113.10, protocol: udp, port: 53, forwarding: dsr, slots: 4093, backends: [
      {{eni: 10.0.1.99, port: 53, weight: 10}},
    ]}}
"
    )
}

const ENI: &str = "10.0.1.99/16";
