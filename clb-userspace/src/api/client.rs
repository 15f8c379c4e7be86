//! The asking side of the socket.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, http::request::Builder};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::{
    APPLY_PATH, Applied, CONFIG_PATH, DRAIN_PATH, Drained, EXPLAIN_PATH, Explanation, NoBackend, Proposal, Question,
    RELOAD_PATH, Refusal, STATUS_PATH, Status, Text, UNDRAIN_PATH,
};
use crate::{config::Config, drain::Drain};

/// Asks the agent on this socket what it balances.
pub async fn status(socket: &Path) -> anyhow::Result<Status> {
    ask(socket, STATUS_PATH).await
}

/// Asks the agent on this socket for the configuration in force.
pub async fn config(socket: &Path) -> anyhow::Result<Config> {
    ask(socket, CONFIG_PATH).await
}

/// Asks the agent on this socket what would become of a packet.
pub async fn explain(socket: &Path, question: &Question) -> anyhow::Result<Explanation> {
    let body = serde_json::to_vec(question).context("write the question")?;
    send(socket, Request::post(EXPLAIN_PATH), body).await
}

/// Has the agent on this socket take another configuration, and waits until it is in force.
pub async fn apply(socket: &Path, proposal: Proposal) -> anyhow::Result<Result<Applied, Refusal>> {
    let Proposal { text, terms } = proposal;
    let (path, body) = match text {
        Text::OwnFile => (RELOAD_PATH, Vec::new()),
        Text::Sent(text) => (APPLY_PATH, text),
    };
    let request = Request::post(format!("{path}?{}", terms.to_query()));
    let (code, body) = exchange_within(APPLY_PATIENCE, socket, request, body).await?;
    match code {
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => read(&body).map(Err),
        _ => good(code, &body).map(Ok),
    }
}

/// Has the agent on this socket give these backends no new flows.
pub async fn drain(socket: &Path, drain: Drain) -> anyhow::Result<Result<Drained, NoBackend>> {
    change_drains(socket, DRAIN_PATH, drain).await
}

/// Has the agent on this socket give these backends their share again.
pub async fn undrain(socket: &Path, drain: Drain) -> anyhow::Result<Result<Drained, NoBackend>> {
    change_drains(socket, UNDRAIN_PATH, drain).await
}

async fn change_drains(socket: &Path, path: &str, drain: Drain) -> anyhow::Result<Result<Drained, NoBackend>> {
    let body = serde_json::to_vec(&drain).context("write the question")?;
    let (code, body) = exchange_within(APPLY_PATIENCE, socket, Request::post(path), body).await?;
    match code {
        StatusCode::UNPROCESSABLE_ENTITY => Ok(Err(NoBackend(read::<Failed>(&body)?.error))),
        _ => good(code, &body).map(Ok),
    }
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    send(socket, Request::get(path), Vec::new()).await
}

async fn send<T: DeserializeOwned>(socket: &Path, request: Builder, body: Vec<u8>) -> anyhow::Result<T> {
    let (code, body) = exchange_within(AGENT_PATIENCE, socket, request, body).await?;
    good(code, &body)
}

fn good<T: DeserializeOwned>(code: StatusCode, body: &[u8]) -> anyhow::Result<T> {
    if code == StatusCode::OK {
        return read(body);
    }
    let said = serde_json::from_slice::<Failed>(body).map(|failed| failed.error);
    bail!("the agent answered {code}: {}", said.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()))
}

#[derive(Deserialize)]
struct Failed {
    error: String,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context(
        "the agent's answer is of another version of clb\n\
         help: ask it with the `clb` that it was started from, or start it again",
    )
}

async fn exchange_within(
    patience: Duration,
    socket: &Path,
    request: Builder,
    body: Vec<u8>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    timeout(patience, exchange(socket, request, body)).await.map_err(|_| {
        anyhow!(
            "the agent on {} does not answer\n\
             help: it may be stopped, or very busy: its log says what it does",
            socket.display()
        )
    })?
}

async fn exchange(socket: &Path, request: Builder, body: Vec<u8>) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let no_answer = |error: hyper::Error| {
        anyhow!(error).context(format!(
            "no answer came from {}\n\
             help: the agent has just ended, or something else listens there: name the agent's with `--socket PATH`",
            socket.display()
        ))
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
    let connection = tokio::spawn(connection);
    let request = request.header("host", "clb").body(Full::<Bytes>::new(body.into()))?;
    let response = sender.send_request(request).await.map_err(no_answer)?;
    let code = response.status();
    let body = response.into_body().collect().await.map_err(no_answer)?.to_bytes();
    connection.abort();
    Ok((code, body))
}

fn unreachable(socket: &Path, error: io::Error) -> anyhow::Error {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => "only the user that runs the agent may ask it: try with `sudo`",
        _ => "start it with `clb run --config FILE`; an agent with a socket of its own is asked with `--socket PATH`",
    };
    anyhow::Error::new(error).context(format!("no agent answers on {}\nhelp: {help}", socket.display()))
}

/// An agent that is starting answers when its neighbours have, which takes some seconds at most.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);
/// To receive a large file, wait for new neighbours, load a program for a new mode, and write a large change.
const APPLY_PATIENCE: Duration = Duration::from_secs(100);
