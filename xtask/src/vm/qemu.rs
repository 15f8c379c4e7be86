//! One virtual machine: two CPUs, two virtio-net cards that are joined outside of it, a console, and a port for reports.
//!
//! The cards are tap interfaces on a bridge, in a network namespace of QEMU's own that ends with it: other back ends give
//! a card one queue only, and the driver wants two for each CPU to run XDP without a lock.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Task;
use super::initramfs::{self, AGENT, EBPF_PROGRAMS};
use super::kernel::Kernel;
use crate::machine::QEMU;
use crate::progress;
use crate::workspace::Workspace;

/// What came of a boot.
pub struct Boot {
    pub checks: Vec<Check>,
    /// Whether the guest ran all its checks, or what happened instead.
    pub end: Result<(), String>,
    pub console: Console,
}

/// What the guest said of a check, or of something to count.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    pub time: Duration,
    pub said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Counted(u64),
    Failed,
}

/// What the kernel and the guest's programs printed.
pub struct Console {
    pub path: PathBuf,
}

impl Console {
    pub fn text(&self) -> Result<String> {
        let bytes = fs::read(&self.path).with_context(|| format!("read {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }
}

/// Boots the kernel, and waits until the guest has powered itself off.
pub fn boot(workspace: &Workspace, kernel: &Kernel, task: Task) -> Result<Boot> {
    let folder = workspace.target.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let initramfs = folder.join(format!("linux-{}.cpio", kernel.series));
    initramfs::write(workspace, kernel, &initramfs)?;
    let console = Console { path: folder.join(format!("linux-{}.console", kernel.series)) };

    let mut command = qemu(task);
    command.arg("-serial").arg(format!("file:{}", console.path.display())).args(["-serial", "stdio"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs).args(["-append", &kernel_line(task)]);
    let (status, lines) = progress::output(&format!("Linux {}", kernel.release), &mut command)?;

    let checks: Vec<_> = lines.iter().filter_map(|line| parse(line)).collect();
    let end = match (status.code(), lines.iter().any(|line| line == "end")) {
        (Some(0), true) => Ok(()),
        (Some(TIMED_OUT), _) => Err(format!("not done within {} s", DEADLINE.as_secs())),
        (Some(0), false) => Err("the guest died".to_owned()),
        (_, _) => Err(format!("QEMU failed ({status}): {}", lines.last().map_or("", String::as_str))),
    };
    Ok(Boot { checks, end, console })
}

/// QEMU with its CPUs and cards, ended when it takes too long.
fn qemu(task: Task) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", &DEADLINE.as_secs().to_string()]);
    match task {
        Task::Check => {
            command.args(["unshare", "--net", "sh", "-ec", JOIN_CARDS, "sh", QEMU]);
            command.args(["-accel", "tcg", "-smp", &CPUS.to_string()]);
            let queues = CPUS * 2;
            let vectors = queues * 2 + 2;
            for card in 0..2 {
                let tap = format!("tap,id=card{card},ifname=tap{card},script=no,downscript=no,queues={queues}");
                let nic =
                    format!("virtio-net-pci,netdev=card{card},mac=02:00:00:00:01:0{card},mq=on,vectors={vectors}");
                command.args(["-netdev", &tap, "-device", &nic]);
            }
        }
        // The guest's clock advances by 2^0 nanoseconds with each instruction, and jumps to the next timer when it idles.
        Task::Count => {
            command.arg(QEMU).args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]);
        }
    }
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35", "-m", "1G"]);
    command
}

/// The kernel hands what it does not know to the first process, as its environment, and what follows two hyphens as its arguments.
fn kernel_line(task: Task) -> String {
    let arguments = match task {
        Task::Check => "check",
        Task::Count => "count",
    };
    format!("console=ttyS0 quiet panic=-1 PATH=/bin CLB_BINARY={AGENT} CLB_EBPF_DIR={EBPF_PROGRAMS} -- {arguments}")
}

/// Reads a line of the report, as `tests/vm/report.rs` writes it.
fn parse(line: &str) -> Option<Check> {
    let fields: Vec<_> = line.splitn(4, '\t').collect();
    let [name, outcome, milliseconds, said] = fields[..] else { return None };
    let outcome = match outcome {
        "ok" => Outcome::Ok,
        "counted" => Outcome::Counted(said.parse().ok()?),
        "failed" => Outcome::Failed,
        _ => return None,
    };
    let time = Duration::from_millis(milliseconds.parse().ok()?);
    Some(Check { name: name.to_owned(), outcome, time, said: said.to_owned() })
}

const CPUS: u32 = 2;
const DEADLINE: Duration = Duration::from_mins(3);
/// The exit status of `timeout`.
const TIMED_OUT: i32 = 124;

/// A shell script that makes the taps, joins them, and becomes the command that it gets as its arguments.
const JOIN_CARDS: &str = "
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add hub type bridge mcast_snooping 0
ip link set hub up
for tap in tap0 tap1; do
    ip tuntap add $tap mode tap multi_queue vnet_hdr
    ip link set $tap master hub
    ip link set $tap up
done
exec \"$@\"
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_report_is_read_and_anything_else_is_not() {
        let check = |outcome, said: &str| {
            Some(Check { name: "loads".to_owned(), outcome, time: Duration::from_millis(1_234), said: said.to_owned() })
        };
        for (line, expected) in [
            ("loads\tok\t1234\t5 instructions", check(Outcome::Ok, "5 instructions")),
            ("loads\tfailed\t1234\t", check(Outcome::Failed, "")),
            ("loads\tcounted\t1234\t552", check(Outcome::Counted(552), "552")),
            ("loads\tcounted\t1234\tmany", None),
            ("loads\tok\tsoon\t", None),
            ("loads\tperhaps\t1\t", None),
            ("end", None),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }
}
