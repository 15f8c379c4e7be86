//! The flows that `full_nat` remembers: both ends of a packet are rewritten, so neither end says whose it is.
//!
//! A flow stands twice, once for each direction: `Flow` is found by the client's packets, `Return` by the backend's. The
//! program makes and marks them, and the agent ends them: when both ends have closed, after a reset, or when neither
//! direction has had a packet for the listener's idle timeout.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Address, Endpoint, Port};

/// The key of a flow: the client, and the listener that it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FlowKey {
    /// The client.
    pub client: Endpoint,
    /// The listener's index.
    pub listener: u32,
    filler: u32,
}

impl FlowKey {
    /// The flow of this client with the listener at this index.
    #[inline(always)]
    pub const fn new(client: Endpoint, listener: u32) -> Self {
        Self { client, listener, filler: 0 }
    }
}

/// What the packets of a client need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct Flow {
    /// The address of the pool that the backend sees.
    pub source: Address,
    /// The port that the backend sees.
    pub port: Port,
    filler: u16,
    /// The backend's index.
    pub backend: u32,
    /// What was seen of the client.
    pub seen: Seen,
}

impl Flow {
    /// A flow to this backend, with this address and port as its source.
    #[inline(always)]
    pub const fn new(source: Address, port: Port, backend: u32, seen: Seen) -> Self {
        Self { source, port, filler: 0, backend, seen }
    }
}

/// The key of the way back: whom a backend answers, and who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ReturnKey {
    /// The pool's address and port.
    pub source: Endpoint,
    /// The backend's port.
    pub port: Port,
    filler: [u16; 3],
    /// The backend's address.
    pub address: Address,
}

impl ReturnKey {
    /// The way back from the backend with this address and port.
    #[inline(always)]
    pub const fn new(source: Endpoint, address: Address, port: Port) -> Self {
        Self { source, port, filler: [0; 3], address }
    }
}

/// What the packets of a backend need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(8))]
pub struct Return {
    /// The flow that it belongs to.
    pub flow: FlowKey,
    /// The address that the client expects as the source.
    pub vip: Address,
    /// The port that the client expects as the source.
    pub port: Port,
    filler: u16,
    /// The backend's index.
    pub backend: u32,
    /// What was seen of the backend.
    pub seen: Seen,
}

impl Return {
    /// The way back of this flow, from this backend, as from this VIP and port.
    #[inline(always)]
    pub const fn new(flow: FlowKey, vip: Address, port: Port, backend: u32, seen: Seen) -> Self {
        Self { flow, vip, port, filler: 0, backend, seen }
    }
}

/// What was seen of one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Seen {
    /// When the last packet came, in ticks.
    pub tick: u32,
    /// Of TCP: a union of the marks below.
    pub marks: u32,
}

impl Seen {
    /// A segment that is not a SYN: the handshake went on.
    pub const ESTABLISHED: u32 = 1;
    /// A FIN.
    pub const FINISHED: u32 = 2;
    /// A RST.
    pub const RESET: u32 = 4;
}

/// The logarithm of a tick's length in nanoseconds: 1.07 seconds. Ticks count from the machine's start
/// (`CLOCK_MONOTONIC`); the program would pay for a division by a round number of nanoseconds.
pub const TICK_SHIFT: u32 = 30;
