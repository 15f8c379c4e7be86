//! Where things are, and how the host's cargo is called.
//!
//! xtask runs under `cargo run`, which leaves variables about the package xtask in the environment. Passed on, they make
//! cargo see a changed environment and build dependencies again, so no command made here inherits them.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The folders of this clone.
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
}

impl Workspace {
    /// The workspace that this xtask was run from.
    pub fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).parent().context("xtask lies in the workspace's folder")?.to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(target) => std::path::absolute(target).context("find CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Where the XDP programs are laid for the agent's build and for the tests.
    pub fn ebpf_programs(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    pub fn agent(&self) -> PathBuf {
        self.target.join("release/clb")
    }

    pub fn demo(&self) -> PathBuf {
        self.target.join("release/clb-demo")
    }

    /// The churn, once built.
    pub fn churn(&self) -> PathBuf {
        self.target.join("release/clb-churn")
    }

    /// The comparison with other load balancers, once built.
    pub fn peers(&self) -> PathBuf {
        self.target.join("release/clb-peers")
    }

    /// The first process of the virtual machines.
    pub fn vm_init(&self) -> PathBuf {
        self.target.join("release/clb-vm")
    }

    /// Tools that this project builds for itself, out of the way of the user's own.
    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// The cargo that runs us, with what the agent's build and the tests want to know.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        remove_variables(&mut command, &["CARGO_PKG_", "CARGO_MANIFEST_"]);
        command.current_dir(&self.root);
        self.describe_build(&mut command);
        command
    }

    /// Tells `command` where the built programs are.
    pub fn describe_build(&self, command: &mut Command) {
        command.env("CLB_EBPF_DIR", self.ebpf_programs()).env("CLB_BINARY", self.agent());
    }
}

/// Keeps every variable whose name begins with one of `prefixes` from `command`.
pub fn remove_variables(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        if prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// Runs `command` with its output on our stderr; fails with `what` if it does.
pub fn run_aloud(what: &str, command: &mut Command) -> Result<()> {
    run(what, command.stdout(Stdio::from(std::io::stderr())))
}

/// Runs `command` with our stdout; fails with `what` if it does.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{what}: start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// What `command` prints, if it can be run and succeeds.
pub fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Who we run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    Root,
    User,
}

impl Privilege {
    pub fn ours() -> Self {
        if nix::unistd::geteuid().is_root() { Self::Root } else { Self::User }
    }

    /// Refuses to go on as a user, with the command line that would do for `cargo xtask TASK ARGUMENTS`.
    pub fn require_root(self, task: &str, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        match self {
            Self::Root => Ok(()),
            Self::User => {
                let words: Vec<_> = arguments.iter().map(|word| format!(" {}", quoted(word.as_ref()))).collect();
                Err(CannotRun(format!(
                    "`cargo xtask {task}` loads XDP programs and makes network namespaces, which needs root\n\
                     help: run it as root:\n\n    \
                     sudo -E env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask {task}{}",
                    words.concat()
                ))
                .into())
            }
        }
    }
}

/// `word` as a shell reads it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_=./,:".contains(character);
    if word.chars().all(is_plain) { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// A task that could not begin, as opposed to one that found a problem.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotRun(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_the_command_for_root() {
        let error = Privilege::User.require_root("demo", &["--json", "it's one"]).unwrap_err();
        assert!(error.is::<CannotRun>());
        let said = error.to_string();
        assert!(
            said.ends_with(r#"sudo -E env "PATH=$PATH" "HOME=$HOME" cargo xtask demo --json 'it'\''s one'"#),
            "{said}"
        );
    }
}
