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
use aya::{
    Ebpf,
    maps::{Array, ProgramArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use clb_common::bench::{HEADER_WORDS, Template};
use etherparse::PacketBuilder;

use crate::{Host, frames::ebpf_objects};

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

fn send(packet: &[u8], interface: u32, stop: &AtomicBool) -> Result<u64> {
    let mut bare = Ebpf::load_file(ebpf_objects().join("bare")).context("load the eBPF object `bare`")?;
    for name in ["swap", "restore"] {
        program(&mut bare, name)?.load().with_context(|| format!("load the XDP program `{name}`"))?;
    }
    let swap = program(&mut bare, "swap")?.fd()?.try_clone()?;
    ProgramArray::try_from(bare.map_mut("MEASURED").context("map MEASURED")?)?.set(0, &swap, 0)?;
    Array::try_from(bare.map_mut("TEMPLATE").context("map TEMPLATE")?)?.set(0, template(packet)?, 0)?;
    // The start of `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: Vec<u8> =
        [0, packet.len() as u32, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: Some(&context),
            repeat: AT_ONCE,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        program(&mut bare, "restore")?.test_run(options).context("send live frames")?;
        sent += u64::from(AT_ONCE);
    }
    Ok(sent)
}

fn program<'a>(bare: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(bare.program_mut(name).with_context(|| format!("program {name}"))?.try_into()?)
}

/// With the MAC addresses exchanged, which `swap` exchanges again.
fn packet(next_hop: [u8; 6], listener: SocketAddrV4, segments: Segments) -> Result<Vec<u8>> {
    let own = [2, 0, 0, 0, 0, 99];
    let ip = PacketBuilder::ethernet2(next_hop, own).ipv4([10, 99, 0, 0], listener.ip().octets(), 64);
    let tcp = ip.tcp(1_024, listener.port(), 1, 65_535);
    let tcp = match segments {
        Segments::Syn => tcp.syn(),
        Segments::Ack => tcp.ack(1),
    };
    let mut packet = Vec::new();
    tcp.write(&mut packet, &[0; 32]).context("build a packet")?;
    Ok(packet)
}

/// How each packet differs from the one before.
fn template(packet: &[u8]) -> Result<Template> {
    let mut headers = [0; HEADER_WORDS];
    for (word, bytes) in headers.iter_mut().zip(packet.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into()?);
    }
    let address = packet[SOURCE_ADDRESS..SOURCE_ADDRESS + 4].try_into()?;
    Ok(Template {
        headers,
        flow: 0,
        flow_mask: u32::MAX >> 2,
        ports_at: SOURCE_PORT as u32,
        address_at: SOURCE_ADDRESS as u32,
        address: u32::from_ne_bytes(address),
        length: packet.len() as u32,
    })
}

const SOURCE_ADDRESS: usize = 14 + 12;
const SOURCE_PORT: usize = 14 + 20;
const AT_ONCE: u32 = 16_384;
const BATCH: u32 = 64;
