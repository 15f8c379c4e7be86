//! A flood that a host's kernel makes as fast as it can: TCP segments of ever other clients, sent from an interface as an XDP
//! program sends them.
//!
//! Clients vary by address and port, and nothing is computed anew for them: checksums are wrong, which a load balancer does not
//! see and a receiver's kernel does. So what arrives behind the load balancer ends there.

use std::{
    net::SocketAddrV4,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use clb_common::Protocol;
use clb_userspace::bench::{Packet, Segment, Wrapper};

use crate::Host;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// Each opens a connection.
    Syn,
    /// Each is of a connection that was never opened.
    Ack,
}

/// A running flood, until it is stopped or dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Flood {
    /// Sends from this interface of the host to a listener, by way of the next hop with this MAC address.
    pub fn start(
        host: &Host,
        device: &str,
        next_hop: [u8; 6],
        listener: SocketAddrV4,
        segments: Segments,
    ) -> Result<Self> {
        let link = host.run(&format!("ip -j link show {device}"))?;
        let link: serde_json::Value = serde_json::from_str(&link).context("read what `ip` printed")?;
        let index = link[0]["ifindex"].as_u64().context("an interface has an index")? as u32;
        let packet = packet(next_hop, listener, segments)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, host) = (Arc::clone(&stop), host.clone());
        let thread = thread::spawn(move || host.enter(|| send(&packet, index, &stopped))?);
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it, and returns how many packets were sent.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a flood ends once")?;
        thread.join().map_err(|_| anyhow!("the flood's thread panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn send(packet: &Packet, interface: u32, stop: &AtomicBool) -> Result<u64> {
    let mut wrapper = Wrapper::load()?;
    let back = wrapper.bare("swap")?.fd()?.try_clone()?;
    wrapper.measure(&back)?;
    wrapper.prepare(packet.template(u32::MAX, 1)?)?;
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        wrapper.send(packet, AT_ONCE, interface)?;
        sent += u64::from(AT_ONCE);
    }
    Ok(sent)
}

/// With the MAC addresses exchanged, which `swap` exchanges again.
fn packet(next_hop: [u8; 6], listener: SocketAddrV4, segments: Segments) -> Result<Packet> {
    let client = SocketAddrV4::new([10, 99, 0, 0].into(), 1_024);
    let segment = match segments {
        Segments::Syn => Segment::Opening,
        Segments::Ack => Segment::Established,
    };
    let mut packet = Packet::request(Protocol::Tcp, client.into(), listener.into(), segment)?;
    packet.bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
    packet.bytes[6..12].copy_from_slice(&next_hop);
    Ok(packet)
}

const AT_ONCE: u32 = 16_384;
