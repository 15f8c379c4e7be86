//! Network namespaces of one test, with names of its own, removed when the test ends in whichever way.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    process::{self, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use clb_userspace::network::Network;
use nix::{
    sched::{CloneFlags, setns},
    unistd::Uid,
};

/// The namespaces. Hosts are made when they are first named.
pub struct Namespaces {
    prefix: String,
    made: Mutex<BTreeSet<String>>,
}

impl Namespaces {
    /// None yet.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(Uid::effective().is_root(), "this test makes network namespaces, which needs root: run it with sudo");
        let prefix = format!("clb-network-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { prefix, made: Mutex::default() }
    }

    /// Joins two hosts by a cable, and sets both ends up with these addresses.
    pub fn join(&self, one: &str, one_end: &str, one_address: &str, two: &str, two_end: &str, two_address: &str) {
        let [one_namespace, two_namespace] = [one, two].map(|host| self.namespace(host));
        self.ip(
            one,
            &format!("link add {one_end} netns {one_namespace} type veth peer {two_end} netns {two_namespace}"),
        );
        for (host, end, address) in [(one, one_end, one_address), (two, two_end, two_address)] {
            // Failing takes three tries: a tenth of a second apart, so that tests need not wait.
            self.sysctl(host, &format!("net.ipv4.neigh.{end}.retrans_time_ms=100"));
            self.ip(host, &format!("address add {address} dev {end}"));
            self.ip(host, &format!("link set {end} up"));
        }
    }

    /// Runs `ip` on a host and gives what it says.
    pub fn ip(&self, host: &str, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.namespace(host)]).args(arguments.split(' ')), "")
    }

    /// Runs many lines of `ip` on a host.
    pub fn ip_batch(&self, host: &str, lines: &str) {
        run(Command::new("ip").args(["-n", &self.namespace(host), "-batch", "-"]), lines);
    }

    /// Sets a sysctl of a host, `name=value`.
    pub fn sysctl(&self, host: &str, setting: &str) {
        let (name, value) = setting.split_once('=').expect("name=value");
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        run(Command::new("ip").args(["netns", "exec", &self.namespace(host), "tee", &file]), value);
    }

    /// The MAC address of a host's interface.
    pub fn show(&self, host: &str, interface: &str) -> String {
        let shown = self.ip(host, &format!("-oneline link show {interface}"));
        let (_, after) = shown.split_once("link/ether ").expect("an Ethernet interface");
        after.split(' ').next().expect("split gives one").to_owned()
    }

    /// Runs the test on the host `balancer`, with a mirror of its network.
    pub fn in_balancer(&self, test: impl AsyncFnOnce(Network) + Send) {
        let namespace =
            File::open(format!("/run/netns/{}", self.namespace("balancer"))).expect("the namespace is there");
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { test(Network::connect().await.expect("connect")).await });
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// How many messages the netlink sockets of this thread's namespace have lost.
    pub fn lost_messages() -> u32 {
        let table = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("the kernel lists netlink sockets");
        let mut lines = table.lines().map(str::split_whitespace);
        let column = lines.next().and_then(|mut titles| titles.position(|title| title == "Drops")).expect("Drops");
        lines.filter_map(|mut line| line.nth(column)?.parse::<u32>().ok()).sum()
    }

    fn namespace(&self, host: &str) -> String {
        let name = format!("{}-{host}", self.prefix);
        if self.made.lock().unwrap().insert(name.clone()) {
            run(Command::new("ip").args(["netns", "add", &name]), "");
            run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]), "");
        }
        name
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.made.lock().iter().flat_map(|made| made.iter()) {
            // A panic here would hide why the test failed.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A MAC address from its text.
pub fn mac(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"));
    mac.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    mac
}

fn run(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ip is installed (package iproute2)");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write its input");
    let output = child.wait_with_output().expect("wait for it");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ip prints text")
}
