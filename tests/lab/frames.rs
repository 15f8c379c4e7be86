//! What the far end of a veth link needs before XDP programs can send to it: an XDP program of its own, one that passes.
//!
//! Without one the kernel counts such frames as sent and drops them (`veth_xdp_xmit` in drivers/net/veth.c).

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};

use crate::{Host, Lab, repository};

/// The program that passes, loaded; it stays attached wherever it was put for as long as this lives.
#[derive(Debug)]
pub struct Frames {
    object: Ebpf,
}

impl Lab {
    /// Lets this end of a veth link receive what an XDP program on the other end sends.
    pub fn receive_frames(&self, host: &Host, device: &str) -> Result<()> {
        let mut frames = self.frames.borrow_mut();
        let frames = match &mut *frames {
            Some(frames) => frames,
            none => none.insert(Frames::load()?),
        };
        host.enter(|| frames.attach(device))?
            .with_context(|| format!("attach the XDP program `{PROGRAM}` to {device} on {}", host.label()))
    }
}

impl Frames {
    fn load() -> Result<Self> {
        let path = ebpf_objects().join("bare");
        let mut object = Ebpf::load_file(&path).with_context(|| {
            format!("load the eBPF object {}\nhelp: build it with `cargo xtask build`", path.display())
        })?;
        program(&mut object)?.load().context("load the XDP program that passes")?;
        Ok(Self { object })
    }

    fn attach(&mut self, device: &str) -> Result<()> {
        program(&mut self.object)?.attach(device, XdpMode::Driver)?;
        Ok(())
    }
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp> {
    let program = object.program_mut(PROGRAM).with_context(|| format!("the object has no program `{PROGRAM}`"))?;
    Ok(program.try_into()?)
}

/// The folder with the eBPF objects: `CLB_EBPF_DIR`, or where `cargo xtask build` puts them.
pub fn ebpf_objects() -> PathBuf {
    env::var_os("CLB_EBPF_DIR").map_or_else(|| repository().join("target/ebpf"), PathBuf::from)
}

const PROGRAM: &str = "pass";
