//! The lab: hosts in network namespaces, wired with veth, in which clb runs as it would run for a user.
//!
//! A [`Lab`] owns what it makes. Namespaces and the lab's directory carry the process id and a number, so labs run side
//! by side, and whatever ends a lab (a return, a panic, Ctrl-C, even SIGKILL) it is removed: by its `Drop`, by a watcher
//! of signals, or by the next lab, which knows a leftover by its dead process.

mod agent;
mod flood;
mod flows;
mod frames;
mod host;
mod interrupt;
mod link;
mod remains;
mod servers;
mod wait;

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

pub use agent::{
    Agent, BackendStatus, DrainStatus, HealthStatus, InterfaceStatus, ListenerStatus, NextHopStatus, Status, binary,
};
pub use flood::{Flood, Segments};
pub use flows::{Flows, Outcome};
pub use frames::ebpf_objects;
pub use host::Host;
pub use interrupt::wait_for_interrupt;
pub use servers::{Protocol, Server, Servers};
pub use wait::wait_until;

use crate::{frames::Frames, remains::LabName};

/// Some hosts, their links, and a directory for the files of what runs on them.
#[derive(Debug)]
pub struct Lab {
    name: LabName,
    frames: RefCell<Option<Frames>>,
}

impl Lab {
    /// An empty lab. Removes the leftovers of labs whose process was killed.
    pub fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        interrupt::watch()?;
        remains::remove_leftovers()?;
        let name = LabName::own(MADE.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name, frames: RefCell::new(None) };
        interrupt::unless_interrupted(|| fs::create_dir(lab.directory()))
            .with_context(|| format!("make the folder {}", lab.directory().display()))?;
        interrupt::unless_interrupted(|| lab.name.mount_bpf_fs())?;
        Ok(lab)
    }

    /// A new host. It forwards nothing, takes packets from any direction, and may use IPv6 addresses as soon as they are set.
    pub fn host(&self, label: &str) -> Result<Host> {
        let host = interrupt::unless_interrupted(|| Host::add(&self.name, label))?;
        for scope in ["all", "default"] {
            // A new namespace has the IPv4 settings of the machine, whatever they are.
            host.sysctl(&format!("net.ipv4.conf.{scope}.forwarding"), "0")?;
            host.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
            host.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
            host.sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), "0")?;
        }
        host.run("ip link set lo up")?;
        Ok(host)
    }

    /// Where sockets and logs of this lab are kept; removed with it.
    pub fn directory(&self) -> PathBuf {
        self.name.directory()
    }

    /// The BPF file system in which agents on this host keep maps and links.
    pub fn bpf_fs(&self, host: &Host) -> Result<PathBuf> {
        let folder = self.name.bpf_fs().join(host.label());
        fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = interrupt::unless_interrupted(|| remains::remove(&self.name)) {
            eprintln!("warning: the lab {} is not wholly removed: {error:#}", self.name);
        }
    }
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in a folder of the repository")
}

#[cfg(test)]
mod tests {
    use std::{panic, process::Command, time::Duration};

    use super::*;

    fn names_of(lab: &LabName) -> Vec<String> {
        remains::namespaces().unwrap().into_iter().filter(|name| LabName::of(name).as_ref() == Some(lab)).collect()
    }

    #[test]
    fn hosts_on_a_switch_serve_each_other_in_both_families_and_protocols() {
        let lab = Lab::new().unwrap();
        let switch = lab.switch("switch").unwrap();
        let [client, server] = ["client", "server"].map(|label| lab.host(label).unwrap());
        for (host, last) in [(&client, 1), (&server, 2)] {
            lab.plug(&switch, host, "eth0").unwrap();
            host.add_address(&format!("192.0.2.{last}/24"), "eth0").unwrap();
            host.add_address(&format!("2001:db8::{last}/64"), "eth0").unwrap();
        }
        for (source, address) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let listen = (address.parse::<std::net::IpAddr>().unwrap(), 7).into();
                let server_socket =
                    Server { listen, protocol, device: "eth0".to_owned(), identity: "the server".to_owned() };
                let _servers = Servers::start(&server, vec![server_socket]).unwrap();
                let flows = Flows { target: listen, protocol, sources: vec![source.parse().unwrap()], count: 50 };
                let outcome = flows.run(&client, || {}).unwrap();
                assert_eq!(outcome.answers, [("the server".to_owned(), 50)].into(), "{protocol} to {address}");
                assert_eq!(outcome.failures, [].into(), "{protocol} to {address}");
            }
        }
    }

    #[test]
    fn a_panic_removes_the_lab() {
        let lab = Lab::new().unwrap();
        let name = lab.name.clone();
        lab.host("alone").unwrap();
        assert_eq!(names_of(&name).len(), 1);
        panic::catch_unwind(panic::AssertUnwindSafe(move || {
            let _lab = lab;
            panic!("on purpose");
        }))
        .unwrap_err();
        assert_eq!(names_of(&name), [""; 0]);
        assert!(!name.directory().exists());
    }

    #[test]
    fn the_leftover_of_a_killed_process_is_removed_with_what_runs_in_it() {
        // The process ids end below 2^22, so nobody has this one.
        let killed = LabName::new(u32::MAX, 0);
        fs::create_dir(killed.directory()).unwrap();
        let host = Host::add(&killed, "host").unwrap();
        let mut sleeper = host.command("sleep").arg("600").spawn().unwrap();
        wait_until("the sleeper is in its namespace", Duration::from_secs(5), || {
            let processes = host::output(Command::new("ip").args(["netns", "pids", host.namespace()]))?;
            Ok(processes.lines().any(|line| line.trim() == sleeper.id().to_string()))
        })
        .unwrap();

        let _lab = Lab::new().unwrap();
        assert_eq!(names_of(&killed), [""; 0]);
        assert!(!killed.directory().exists());
        assert!(!sleeper.wait().unwrap().success(), "it was killed");
    }

    #[test]
    fn a_refused_set_up_command_is_shown_with_what_it_said() {
        let lab = Lab::new().unwrap();
        let host = lab.host("host").unwrap();
        let error = format!("{:#}", host.run("ip link set eth7 up").unwrap_err());
        assert!(error.contains("ip link set eth7 up") && error.contains("Cannot find device"), "{error}");
    }
}
