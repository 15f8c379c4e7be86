//! CPU time: what the whole machine spent, and what processes did.
//!
//! Packets are worked on in interrupts of whoever is on the CPU at that moment, which no process is charged for. So the
//! machine's time is what tells, and a process's own is only a part of what it costs.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

/// CPU time that was spent, of all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    seconds: f64,
    /// Of how much there was.
    out_of: f64,
}

impl Busy {
    /// The machine's, since it was started. What a hypervisor took from it counts as idle.
    pub fn machine() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        Self::parse(line, ticks_per_second()?).with_context(|| format!("/proc/stat begins with `{line}`"))
    }

    /// `cpu` and the ticks of user, nice, system, idle, iowait, irq, softirq and steal; what follows is a part of user's.
    fn parse(line: &str, rate: f64) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        fields.next().filter(|name| *name == "cpu")?;
        let ticks: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks.try_into().ok()?;
        let busy = user + nice + system + irq + softirq;
        Some(Self { seconds: busy as f64 / rate, out_of: (busy + idle + iowait + steal) as f64 / rate })
    }

    pub fn since(self, earlier: Self) -> Self {
        Self { seconds: self.seconds - earlier.seconds, out_of: self.out_of - earlier.out_of }
    }

    /// How much of the time.
    pub fn share(self) -> f64 {
        self.seconds / self.out_of.max(f64::MIN_POSITIVE)
    }

    /// The seconds beyond those of a machine that was as busy as this before.
    pub fn seconds_beyond(self, quiet: Self) -> f64 {
        self.seconds - quiet.share() * self.out_of
    }
}

/// The CPU time of these processes, in user mode and in the kernel. One that has ended has none.
pub fn of_processes(processes: &[u32]) -> Result<Duration> {
    let rate = ticks_per_second()?;
    let stats = processes.iter().filter_map(|process| fs::read_to_string(format!("/proc/{process}/stat")).ok());
    let ticks: u64 = stats.filter_map(|stat| ticks_of_process(&stat)).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rate))
}

/// utime and stime of `/proc/PID/stat`, the 14th and the 15th. The name before may have spaces and parentheses in it.
fn ticks_of_process(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let times: Vec<u64> =
        fields.split_ascii_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, system] = times.try_into().ok()?;
    Some(user + system)
}

fn ticks_per_second() -> Result<f64> {
    let rate = sysconf(SysconfVar::CLK_TCK).context("ask for the length of a tick")?;
    Ok(rate.context("the length of a tick is not known")? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_what_is_not_idle() {
        let at = |line| Busy::parse(line, 100.0).unwrap();
        let before = at("cpu  100 0 100 1000 0 0 0 0 0 0");
        let after = at("cpu  130 10 140 1080 10 5 15 10 7 0");
        let busy = after.since(before);
        assert_eq!(busy, Busy { seconds: 1.0, out_of: 2.0 });
        assert!((busy.share() - 0.5).abs() < 1e-9);
        assert!((busy.seconds_beyond(Busy { seconds: 1.0, out_of: 10.0 }) - 0.8).abs() < 1e-9);
        assert_eq!(Busy::parse("intr 1 2 3", 100.0), None);
    }

    #[test]
    fn a_process_of_any_name_has_its_times_found() {
        let stat = "12 (a) b (c) S 1 1 1 0 -1 4194560 1 2 3 4 70 30 5 6 20 0 1 0 100";
        assert_eq!(ticks_of_process(stat), Some(100));
    }
}
