//! What stands before the measured program: the kernel's test run repeats a program on the packet as the last run left it, which is
//! not what a network card does. `restore` makes each packet the first one of the next flow, and then calls the measured program.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{Array, MapError, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
    sys::SyscallError,
};
use clb_common::bench::Template;

use super::packet::Packet;
use crate::dataplane::refused;

/// The loaded wrapper, and programs of a few instructions to compare with.
pub struct Wrapper {
    bare: Ebpf,
    restore: &'static str,
}

/// What a run of packets came to.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What became of the last packet.
    pub verdict: u32,
    /// Of one packet, with what the wrapper takes.
    pub duration: Duration,
}

impl Wrapper {
    /// Loads it.
    pub fn load() -> anyhow::Result<Self> {
        let mut bare = Ebpf::load(OBJECT).map_err(|error| refused("create the maps of the wrapper", error))?;
        for name in ["pass", "drop", "swap", RESTORE, RESTORE_LINEAR] {
            program(&mut bare, name)?.load().map_err(|error| refused(&format!("load the program `{name}`"), error))?;
        }
        Ok(Self { bare, restore: RESTORE })
    }

    /// One of the programs of a few instructions: `pass`, `drop` or `swap`.
    pub fn bare(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        program(&mut self.bare, name)
    }

    /// Measures this program from now on.
    pub fn measure(&mut self, measured: &ProgramFd) -> anyhow::Result<()> {
        self.restore = RESTORE;
        let result = match self.set("MEASURED", measured) {
            // Programs that take packets in fragments and others are of two kinds to the kernel.
            Err(MapError::SyscallError(SyscallError { io_error, .. })) if io_error.raw_os_error() == Some(EINVAL) => {
                self.restore = RESTORE_LINEAR;
                self.set("MEASURED_LINEAR", measured)
            }
            result => result,
        };
        result.map_err(|error| anyhow!(error).context("the kernel lets the wrapper call the measured program"))
    }

    fn set(&mut self, map: &str, measured: &ProgramFd) -> Result<(), MapError> {
        let map = self.bare.map_mut(map).ok_or_else(|| MapError::InvalidName { name: map.to_owned() })?;
        ProgramArray::try_from(map)?.set(0, measured, 0)
    }

    /// The packet to make flows of, beginning with the first.
    pub fn prepare(&mut self, template: Template) -> anyhow::Result<()> {
        let map = self.bare.map_mut("TEMPLATE").context("the object holds the map TEMPLATE")?;
        Array::try_from(map)?.set(0, template, 0).context("write the packet")
    }

    /// Runs the measured program on so many packets, which go nowhere.
    pub fn run(&mut self, packet: &Packet, packets: u32) -> anyhow::Result<Run> {
        let options = TestRunOptions { data_in: Some(&packet.bytes), repeat: packets, ..TestRunOptions::default() };
        let result = program(&mut self.bare, self.restore)?.test_run(options).context("run the wrapper")?;
        Ok(Run { verdict: result.return_value, duration: result.duration })
    }

    /// The same with packets that do go where the program sends them, as if they came in by this interface. The verdict is not known.
    pub fn send(&mut self, packet: &Packet, packets: u32, interface: u32) -> anyhow::Result<Duration> {
        // The kernel's `struct xdp_md`: where the packet ends, and the interface and the queue that it came by.
        let context: Vec<u8> =
            [0, packet.bytes.len() as u32, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let options = TestRunOptions {
            data_in: Some(&packet.bytes),
            ctx_in: Some(&context),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        Ok(program(&mut self.bare, self.restore)?.test_run(options).context("send live frames")?.duration)
    }
}

fn program<'a>(bare: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = bare.program_mut(name).with_context(|| format!("the object holds the program `{name}`"))?;
    Ok(program.try_into()?)
}

const RESTORE: &str = "restore";
const RESTORE_LINEAR: &str = "restore_linear";
const EINVAL: i32 = 22;
/// As many frames as a driver hands over at a time.
pub const BATCH: u32 = 64;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CLB_EBPF_BARE_OBJECT"));
