//! The agent's side: the Unix socket that commands ask on, and the TCP address, if there is one, that monitoring asks on.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc, watch},
};

use super::{
    DataPath, Request, connections,
    routes::{ForCommands, ForMonitoring, LONGEST_CONFIGURATION},
};

/// An open socket. Its file goes when it is dropped.
pub struct Server {
    path: PathBuf,
    accepting: tokio::task::JoinHandle<()>,
}

/// Opens the socket and hands every request to `requests`. Refuses if another agent answers on it.
pub fn bind(path: &Path, requests: mpsc::Sender<Request>) -> anyhow::Result<Server> {
    if StdUnixStream::connect(path).is_ok() {
        bail!(
            "another clb answers on {}\n\
             help: stop it first, or give each agent a socket of its own with `--socket PATH`",
            path.display()
        );
    }
    // A socket that nobody answers on was left by an agent that was killed.
    match fs::symlink_metadata(path) {
        Ok(metadata) if is_socket(&metadata) => {
            fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(_) => bail!(
            "{} is there and is no socket\n\
             help: name another place with `--socket PATH`",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    }
    let listener = UnixListener::bind(path).with_context(|| {
        format!("open the socket {}\nhelp: name a place in a folder that is there with `--socket PATH`", path.display())
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {} to its owner", path.display()))?;
    let answers = ForCommands { requests, room: Arc::new(Semaphore::new(2 * LONGEST_CONFIGURATION)) };
    Ok(Server { path: path.to_owned(), accepting: tokio::spawn(connections::serve(listener, answers)) })
}

/// Answers `GET /metrics` and `GET /healthz` on this address, and returns it, with the port that it got.
pub async fn bind_metrics(
    address: SocketAddr,
    requests: mpsc::Sender<Request>,
    data_path: watch::Receiver<DataPath>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("answer on {address}\nhelp: name an address of this host and a free port with `--metrics ADDRESS:PORT`")
    })?;
    let address = listener.local_addr().context("read the address")?;
    let scrapes = Arc::new(Semaphore::new(SCRAPES));
    tokio::spawn(connections::serve(listener, ForMonitoring { requests, data_path, scrapes }));
    Ok(address)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

/// Scrapes that wait for the loop at a time: those who may only look do not hold up those who command.
const SCRAPES: usize = 1;
