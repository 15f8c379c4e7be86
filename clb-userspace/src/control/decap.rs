//! `clb decap`: the loop beside the program that takes tunnels off. It tells the program the host's addresses, and puts it back
//! on an interface that comes back.
//!
//! Any address of the host will do, also of another interface: what comes in through a VLAN, a bridge or a bond is addressed to
//! the interface above.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{RECONNECT, Signals, check_has_no_program, check_interface, no_interface, privileges};
use crate::{
    dataplane::{AttachMode, Decapsulator},
    network::Network,
    prefix::Prefix,
};

/// What to take off, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface that tunnels come in by.
    pub interface: String,
    /// Whom to trust: the prefixes of outer sources.
    pub sources: Vec<Prefix>,
    /// The UDP port of `gue`.
    pub gue_port: u16,
    /// How to attach.
    pub xdp_mode: AttachMode,
}

/// Takes tunnels off until a signal ends it.
pub async fn run(options: Options) -> anyhow::Result<()> {
    privileges::check()?;
    let mut signals = Signals::listen()?;
    let mut asked = signal(SignalKind::user_defined1()).context("listen to signals")?;
    let mut receiver = tokio::select! {
        started = Receiver::start(options) => started?,
        signal = signals.termination() => {
            info!("{signal}: ending before anything was attached");
            return Ok(());
        }
    };
    privileges::drop_others()?;
    loop {
        tokio::select! {
            signal = signals.termination() => {
                info!("{signal}: detaching and ending: {}", receiver.counts()?);
                return Ok(());
            }
            _ = asked.recv() => info!("{}", receiver.counts()?),
            changed = receiver.network.changed() => match changed {
                Ok(()) => receiver.follow(),
                Err(error) => receiver.reconnect(&error).await,
            },
        }
    }
}

struct Receiver {
    options: Options,
    network: Network,
    program: Decapsulator,
    /// The index of the interface that the program is on.
    attached: Option<u32>,
}

impl Receiver {
    /// Attaches last: what is attached knows all that it must.
    async fn start(options: Options) -> anyhow::Result<Self> {
        let network = Network::connect().await.context("read the host's network")?;
        let Options { interface, sources, gue_port, xdp_mode } = &options;
        check_has_no_program(check_interface(&network, interface, NAMED_BY)?, NAMED_BY)?;
        let mut program = Decapsulator::load(sources, *gue_port)?;
        program.set_own_addresses(own_addresses(&network))?;
        let index = network.interface(interface).ok_or_else(|| no_interface(interface, NAMED_BY))?.index;
        let attachment = program.attach(interface, index, *xdp_mode)?;
        info!("attached to {interface} in {} mode: {}", attachment.mode, attachment.reason);
        let trusted: Vec<_> = sources.iter().map(Prefix::to_string).collect();
        info!("taking off ipip, and gue to port {gue_port}, from {}", trusted.join(", "));
        Ok(Self { options, network, program, attached: Some(index) })
    }

    fn follow(&mut self) {
        if let Err(error) = self.program.set_own_addresses(own_addresses(&self.network)) {
            warn!("the host's addresses are not up to date: {error:#}");
        }
        let Options { interface, xdp_mode, .. } = &self.options;
        let now = self.network.interface(interface).map(|interface| interface.index);
        if now == self.attached {
            return;
        }
        if self.attached.is_some() {
            warn!("{interface} is gone: nothing is taken off any more");
        }
        self.attached = now;
        if let Some(index) = now {
            match self.program.attach(interface, index, *xdp_mode) {
                Ok(attachment) => info!("{interface} is back, attached in {} mode", attachment.mode),
                Err(error) => warn!("{interface} is back, but without clb: {error:#}"),
            }
        }
    }

    /// Tunnels are taken off for the addresses that are known, however long this takes.
    async fn reconnect(&mut self, error: &anyhow::Error) {
        warn!("the host's network cannot be followed, trying again: {error:#}");
        tokio::time::sleep(RECONNECT).await;
        match Network::connect().await {
            Ok(network) => {
                self.network = network;
                self.follow();
            }
            Err(error) => warn!("read the host's network: {error:#}"),
        }
    }

    /// What was received, for a person.
    fn counts(&self) -> anyhow::Result<String> {
        let received = self.program.received()?;
        let counts: Vec<_> = received.iter().map(|(kind, packets)| format!("{} {packets}", kind.name())).collect();
        Ok(format!("packets: {}", counts.join(", ")))
    }
}

/// No tunnel from elsewhere ends at a loopback address.
fn own_addresses(network: &Network) -> BTreeSet<IpAddr> {
    network.own_addresses().filter(|address| !address.is_loopback()).collect()
}

const NAMED_BY: &str = "`--interface`";
