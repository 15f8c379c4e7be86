//! What figures hang on beside the program: compare only what was measured on the same machine.

use std::{collections::BTreeMap, fs, thread};

use nix::sys::utsname::{UtsName, uname};
use serde::{Deserialize, Serialize};

/// The machine, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The host's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// The model of its CPUs.
    pub cpu: String,
    /// How many of them clb may use.
    pub cpus: usize,
    /// What the kernel does about each fault of the CPU.
    pub mitigations: BTreeMap<String, String>,
    /// Whether the kernel compiles BPF programs, and hardens the code: the settings, or nothing if they cannot be read.
    pub bpf_jit_enable: Option<String>,
    /// As above.
    pub bpf_jit_harden: Option<String>,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let name = uname().ok();
        let named = |part: Option<&std::ffi::OsStr>| part.map_or_else(unknown, |part| part.to_string_lossy().into());
        Self {
            host: named(name.as_ref().map(UtsName::nodename)),
            kernel: named(name.as_ref().map(UtsName::release)),
            cpu: cpu().unwrap_or_else(unknown),
            cpus: thread::available_parallelism().map_or(1, Into::into),
            mitigations: mitigations(),
            bpf_jit_enable: setting("bpf_jit_enable"),
            bpf_jit_harden: setting("bpf_jit_harden"),
        }
    }

    /// In what this one differs from another, for a person.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let texts = [
            ("host", &self.host, &other.host),
            ("kernel", &self.kernel, &other.kernel),
            ("CPU", &self.cpu, &other.cpu),
        ];
        let texts = texts.iter().filter(|(_, this, other)| this != other);
        let mut differences: Vec<String> =
            texts.map(|(what, this, other)| format!("the {what} is {this}, and was {other}")).collect();
        if self.mitigations != other.mitigations {
            differences.push("the kernel's mitigations for faults of the CPU are others".to_owned());
        }
        if (&self.bpf_jit_enable, &self.bpf_jit_harden) != (&other.bpf_jit_enable, &other.bpf_jit_harden) {
            differences.push("the kernel's settings for compiling BPF programs are others".to_owned());
        }
        differences
    }
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, model) = text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(model.trim().to_owned())
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(files) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return BTreeMap::new() };
    let one = |file: fs::DirEntry| {
        let text = fs::read_to_string(file.path()).ok()?;
        Some((file.file_name().into_string().ok()?, text.trim().to_owned()))
    };
    files.flatten().filter_map(one).collect()
}

fn setting(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}
