//! Attaching the program to interfaces: in the driver where it can, in the network stack where it must.
//!
//! A foreign XDP program is never replaced. The kernel refuses to attach through a link where a program is; that refusal is
//! the last word, whatever was seen before.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context as _, anyhow};
use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::XdpLinkId,
};

use super::{home::KeptLink, program::Program};

/// How the program is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// Native if the driver can, else generic.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack: works on every interface, and is slower.
    Generic,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl Mode {
    /// The mode with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Native, Self::Generic].into_iter().find(|mode| mode.to_string() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// One interface that the program is attached to.
#[derive(Debug)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// The interface's index: another one of the same name is another interface.
    pub index: u32,
    /// How it is attached.
    pub mode: Mode,
    /// Why it is attached like that.
    pub reason: String,
    /// The link that keeps it, among those of the program's handle.
    pub(super) link: XdpLinkId,
}

impl Program {
    /// Attaches the program to an interface that has none.
    pub fn attach(&mut self, interface: &str, index: u32, mode: AttachMode) -> anyhow::Result<&Attachment> {
        let attachment = attach(self.xdp()?, interface, index, mode)?;
        let attachment = self.keep(attachment)?;
        self.attachments.push(attachment);
        self.attachments.last().context("just pushed")
    }

    /// Lets the program stay on an interface when this process ends.
    fn keep(&mut self, attachment: Attachment) -> anyhow::Result<Attachment> {
        let Ok(home) = &self.home else { return Ok(attachment) };
        let Attachment { interface, index, mode, reason, link } = attachment;
        let path = home.link(index, mode);
        // An interface that is gone may have had the same index.
        let _ = fs::remove_file(&path);
        let link = FdLink::try_from(self.xdp()?.take_link(link)?)
            .with_context(|| format!("the kernel made no BPF link for {interface}"))?;
        let link = link.pin(path).with_context(|| format!("keep the program on {interface}"))?;
        let link = self.xdp()?.attach_to_link(FdLink::from(link).try_into()?)?;
        Ok(Attachment { interface, index, mode, reason, link })
    }

    /// Takes the place of the program that an agent left on these interfaces, by their indexes: one atomic change on each. On
    /// others it ends.
    pub fn take_over(&mut self, interfaces: &BTreeMap<u32, String>) -> anyhow::Result<()> {
        let Ok(home) = &self.home else { return Ok(()) };
        for KeptLink { interface: index, mode, path } in home.links()? {
            let Some(interface) = interfaces.get(&index) else {
                fs::remove_file(&path).context("end a link that is not wanted any more")?;
                continue;
            };
            let link = PinnedLink::from_pin(&path).context("open a link that is kept")?;
            match self.xdp()?.attach_to_link(FdLink::from(link).try_into()?) {
                Ok(link) => {
                    let (interface, reason) = (interface.clone(), "as it was before this agent".to_owned());
                    self.attachments.push(Attachment { interface, index, mode, reason, link });
                }
                // The interface went and came back; the agent attaches anew.
                Err(_) => fs::remove_file(&path).context("end a link that leads nowhere")?,
            }
        }
        Ok(())
    }

    /// Where the program is attached.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Forgets an interface that is gone, and the program's place on it with it.
    pub fn forget(&mut self, interface: &str) {
        let is_gone = |attachment: &mut Attachment| attachment.interface == interface;
        let gone: Vec<_> = self.attachments.extract_if(.., is_gone).collect();
        for Attachment { link, index, mode, .. } in gone {
            // The kernel has cut the link already.
            let _ = self.xdp().map(|xdp| xdp.take_link(link));
            let _ = self.home.as_ref().map(|home| fs::remove_file(home.link(index, mode)));
        }
    }
}

/// Attaches a program to an interface that has none.
pub fn attach(xdp: &mut Xdp, interface: &str, index: u32, mode: AttachMode) -> anyhow::Result<Attachment> {
    let ((link, mode), reason) = match mode {
        AttachMode::Native => (link(xdp, interface, index, Mode::Native)?, "as asked".to_owned()),
        AttachMode::Generic => (link(xdp, interface, index, Mode::Generic)?, "as asked".to_owned()),
        AttachMode::Auto => match link(xdp, interface, index, Mode::Native) {
            Ok(linked) => (linked, "the driver supports it".to_owned()),
            Err(AttachError::Occupied(error)) => return Err(error),
            Err(AttachError::Refused(error)) => {
                let reason = format!("the driver refused native mode: {}", error.root_cause());
                (link(xdp, interface, index, Mode::Generic)?, reason)
            }
        },
    };
    Ok(Attachment { interface: interface.to_owned(), index, mode, reason, link })
}

/// The program's handle keeps the link, and the link the program in its place.
fn link(xdp: &mut Xdp, interface: &str, index: u32, mode: Mode) -> Result<(XdpLinkId, Mode), AttachError> {
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    xdp.attach_to_if_index(index, flags).map(|link| (link, mode)).map_err(|error| {
        let what = format!("attach clb to {interface} in {mode} mode");
        if is_occupied(&error) {
            return AttachError::Occupied(anyhow!(error).context(format!(
                "{what}: the interface has another XDP program, which clb never replaces\n\
                 help: see it with `ip link show {interface}`; stop the service that attached it"
            )));
        }
        AttachError::Refused(anyhow!(error).context(format!(
            "{what}\n\
             help: `--xdp-mode generic` works on every interface"
        )))
    })
}

/// Why the program could not be attached.
enum AttachError {
    /// Another program is there.
    Occupied(anyhow::Error),
    /// The driver or the kernel does not want it.
    Refused(anyhow::Error),
}

impl From<AttachError> for anyhow::Error {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Occupied(error) | AttachError::Refused(error) => error,
        }
    }
}

/// The kernel's refusals for an interface that has a program: net/core/dev.c, `dev_xdp_attach`.
fn is_occupied(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc_errno::EBUSY | libc_errno::EEXIST))
}

/// The numbers of two errors.
mod libc_errno {
    pub const EBUSY: i32 = nix::errno::Errno::EBUSY as i32;
    pub const EEXIST: i32 = nix::errno::Errno::EEXIST as i32;
}

/// The name of a loaded program, to tell a person whose it is.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}
