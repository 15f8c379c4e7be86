//! `clb detach`: the end of forwarding for a load balancer whose agent has ended.

use std::process::ExitCode;

use anyhow::bail;

use super::{BpfFsArgument, tell};
use crate::dataplane;

/// End forwarding for a load balancer whose agent has ended
///
/// When `clb run` ends, the program stays on the interfaces and forwards as it did, and the next `clb run` takes it over. This
/// takes the program off and removes its maps: flows that were remembered are forgotten, and packets for VIPs are left to the
/// host. Refuses while an agent runs.
///
/// Exit status: 0 done, or there was nothing to do, 2 it could not be done.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: clb detach lb-edge")]
pub struct DetachArguments {
    /// The load balancer's id in its configuration; not needed if there is only one
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    bpf_fs: BpfFsArgument,
}

pub fn detach(arguments: &DetachArguments) -> anyhow::Result<ExitCode> {
    let DetachArguments { id, bpf_fs: BpfFsArgument { bpf_fs } } = arguments;
    let there = dataplane::load_balancers(bpf_fs)?;
    let id = match (id, &there[..]) {
        (Some(id), _) if there.contains(id) => id,
        (None, [only]) => only,
        (_, []) => {
            tell(&format!("no load balancer is left below {}: nothing to do\n", bpf_fs.display()));
            return Ok(ExitCode::SUCCESS);
        }
        (Some(id), _) => {
            bail!("no load balancer {id} is left below {}\nhelp: there are {}", bpf_fs.display(), there.join(", "))
        }
        (None, _) => bail!("several load balancers are there: {}\nhelp: name one: `clb detach ID`", there.join(", ")),
    };
    let interfaces = dataplane::detach(bpf_fs, id)?;
    let interfaces = if interfaces == 1 { "1 interface".to_owned() } else { format!("{interfaces} interfaces") };
    tell(&format!("{id}: the program is off {interfaces}, and its maps are gone\n"));
    Ok(ExitCode::SUCCESS)
}
