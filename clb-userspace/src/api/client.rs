//! The asking side of the socket.

use std::{io, path::Path};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{STATUS_PATH, Status};

/// Asks the agent on this socket what it balances.
pub async fn status(socket: &Path) -> anyhow::Result<Status> {
    let body = get(socket, STATUS_PATH).await?;
    serde_json::from_slice(&body).context("the agent's answer is of another version of clb")
}

async fn get(socket: &Path, path: &str) -> anyhow::Result<Bytes> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("talk to the agent")?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "clb").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("ask the agent")?;
    let code = response.status();
    let body = response.into_body().collect().await.context("read the agent's answer")?.to_bytes();
    connection.abort();
    if code != StatusCode::OK {
        bail!("the agent answered {code}: {}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}

fn unreachable(socket: &Path, error: io::Error) -> anyhow::Error {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => "only the user that runs the agent may ask it: try `sudo clb status`",
        _ => "start it with `clb run --config FILE`; an agent with a socket of its own is asked with `--socket PATH`",
    };
    anyhow::Error::new(error).context(format!("no agent answers on {}\nhelp: {help}", socket.display()))
}
