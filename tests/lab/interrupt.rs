//! Ctrl-C and SIGTERM: this process's labs are removed, then it ends as the signal asked.
//!
//! A lock is held from the signal to the end of the process. Whoever would make a host, or remove a lab, at the same time
//! waits for it, and with it the thread that was about to report an error which only the removal caused.

use std::{
    process,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::remains;

/// Waits for Ctrl-C or SIGTERM, which then do not end the process: the caller goes on and does.
pub fn wait_for_interrupt() {
    let (tell, told) = mpsc::channel();
    *lock() = Then::Tell(tell);
    // The watcher lives as long as the process, so somebody is always there to tell.
    let _ = told.recv();
}

/// Makes or removes something, unless a signal has begun to remove everything: then this waits for the process's end.
pub fn unless_interrupted<T>(change: impl FnOnce() -> T) -> T {
    let _not_now = lock();
    change()
}

/// Begins to watch for signals, once for a process.
pub fn watch() -> Result<()> {
    static WATCHING: OnceLock<Result<(), String>> = OnceLock::new();
    let watching = WATCHING.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    watching.clone().map_err(anyhow::Error::msg)
}

enum Then {
    EndProcess,
    Tell(mpsc::Sender<()>),
}

static THEN: Mutex<Then> = Mutex::new(Then::EndProcess);

fn lock() -> MutexGuard<'static, Then> {
    // A panic elsewhere must not keep a lab from being removed.
    THEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().context("make a runtime for signals")?;
    let signals = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()].map(signal)
    };
    let [interrupt, terminate] = signals;
    let (mut interrupt, mut terminate) = (interrupt?, terminate?);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            let kind = runtime.block_on(either(&mut interrupt, &mut terminate));
            let mut then = lock();
            match std::mem::replace(&mut *then, Then::EndProcess) {
                Then::Tell(waiting) if waiting.send(()).is_ok() => {}
                _ => end(kind),
            }
        }
    })?;
    Ok(())
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    }
}

fn end(kind: SignalKind) -> ! {
    eprintln!("\ninterrupted: removing the lab");
    if let Err(error) = remains::remove_own() {
        eprintln!("warning: the lab is not wholly removed: {error:#}");
    }
    process::exit(128 + kind.as_raw_value());
}
