//! Configuration, counters and next hops as one answer.

use std::time::SystemTime;

use super::{Control, desired, next_hops::describe};
use crate::{
    api::{
        AgentStatus, BackendStatus, DataPath, FlowsLeft, HealthStatus, InterfaceStatus, LeavingStatus, ListenerStatus,
        NextHopState, NextHopStatus, Status,
    },
    config::{Backend, Listener},
    dataplane::{BackendCounters, Counters},
    health::State,
    slots::BackendId,
};

impl Control {
    /// What is balanced, and the counters at this moment.
    pub(super) fn status(&self) -> anyhow::Result<Status> {
        let counters = self.dataplane.counters()?;
        let interfaces = self.config.interfaces.iter().map(|name| {
            let attached = self.dataplane.attachments().iter().find(|attachment| attachment.interface == *name);
            let (mode, reason) = match attached {
                Some(attachment) => (attachment.mode.to_string(), attachment.reason.clone()),
                None => ("none".to_owned(), "the interface is gone, or could not be attached to again".to_owned()),
            };
            InterfaceStatus { name: name.clone(), mode, reason }
        });
        Ok(Status {
            load_balancer: self.config.id.clone(),
            interfaces: interfaces.collect(),
            passed: counters.passed,
            answered: counters.answered,
            flows: counters.flows,
            pins: counters.pins,
            source_addresses: counters.source_addresses,
            events: counters.events.iter().map(|(event, times)| (event.name().to_owned(), *times)).collect(),
            drops: counters.dropped.iter().map(|(reason, packets)| (reason.name().to_owned(), *packets)).collect(),
            listeners: self.config.listeners.iter().map(|listener| self.listener_status(listener, &counters)).collect(),
            drains: self.drain_status(),
            agent: AgentStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
                started: since_1970(self.started),
            },
            reloads: self.reload_status(),
            health: self.health.counts(),
        })
    }

    /// Tells monitoring whether packets go through the program.
    pub(super) fn tell_data_path(&self) {
        let is_attached = |name: &&String| self.dataplane.attachments().iter().any(|at| at.interface == **name);
        let missing: Vec<_> = self.config.interfaces.iter().filter(|name| !is_attached(name)).cloned().collect();
        self.data_path.send_replace(match &missing[..] {
            [] => DataPath::Attached,
            missing => DataPath::Incomplete(format!("the program is not on {}", missing.join(", "))),
        });
    }

    fn listener_status(&self, listener: &Listener, counters: &Counters) -> ListenerStatus {
        let counted = counters.listeners.get(&desired::id(listener)).cloned().unwrap_or_default();
        let backends = listener.backends.iter().map(|backend| {
            let Backend { address, port, weight, kind, cvm, .. } = backend;
            let id = BackendId { address: *address, port: *port };
            let counters = counted.backends.get(&id).copied().unwrap_or_default();
            let BackendCounters { traffic, slots, pins, .. } = counters;
            BackendStatus {
                address: *address,
                port: *port,
                kind: kind.name().to_owned(),
                cvm: cvm.clone(),
                weight: *weight,
                share: f64::from(slots) / f64::from(counted.slots.max(1)),
                packets: traffic.forwarded.packets,
                bytes: traffic.forwarded.bytes,
                reply_packets: traffic.replies.packets,
                reply_bytes: traffic.replies.bytes,
                pins,
                drained: self.drains.standing(id).is_drained,
                left: left(&counters),
                next_hop: self.next_hop_status(listener, backend),
                health: self.health_status(listener, backend),
            }
        });
        let is_bound = |id: &BackendId| {
            listener.backends.iter().any(|backend| (backend.address, backend.port) == (id.address, id.port))
        };
        let leaving = counted.backends.iter().filter(|(id, _)| !is_bound(id)).map(|(id, counted)| LeavingStatus {
            address: id.address,
            port: id.port,
            packets: counted.traffic.forwarded.packets,
            pins: counted.pins,
        });
        ListenerStatus {
            name: listener.name.clone(),
            vip: listener.vip,
            protocol: listener.protocol.name().to_owned(),
            port: listener.port,
            mode: listener.forwarding.name().to_owned(),
            packets: counted.arrived.packets,
            bytes: counted.arrived.bytes,
            moving_slots: counted.moving,
            settling_slots: counted.settling,
            backends: backends.collect(),
            leaving: leaving.collect(),
        }
    }

    fn health_status(&self, listener: &Listener, backend: &Backend) -> Option<HealthStatus> {
        let backend = BackendId { address: backend.address, port: backend.port };
        let State { verdict, since, cause, is_flapping, flaps, not_asked, last, .. } =
            self.health.state(desired::id(listener), backend)?;
        Some(HealthStatus {
            verdict,
            since: since.map_or(0.0, since_1970),
            cause,
            is_flapping,
            changes: flaps,
            last_seconds: last.map(|last| last.as_secs_f64()),
            not_asked,
        })
    }

    fn next_hop_status(&self, listener: &Listener, backend: &Backend) -> NextHopStatus {
        let (state, detail) = match self.next_hops.get(listener.forwarding, backend.address) {
            Some(Ok(hop)) => (NextHopState::Resolved, describe(hop)),
            Some(Err(reason)) => (NextHopState::Unresolved, reason.to_string()),
            None => (NextHopState::Unresolved, "it was not looked for".to_owned()),
        };
        NextHopStatus { state, detail }
    }
}

pub(super) fn left(counters: &BackendCounters) -> FlowsLeft {
    let BackendCounters { flows, drain, is_empty, .. } = *counters;
    FlowsLeft { flows, drain_seconds: drain.map(|drain| drain.as_secs_f64()), is_empty }
}

/// In seconds.
pub(super) fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
