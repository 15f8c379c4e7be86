//! The agent's side of the socket.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Response, StatusCode, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{CONFIG_PATH, EXPLAIN_PATH, Question, Request, STATUS_PATH};

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
    Ok(Server { path: path.to_owned(), accepting: tokio::spawn(accept(listener, requests)) })
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

async fn accept(listener: UnixListener, requests: mpsc::Sender<Request>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, requests.clone()))),
            Err(error) => {
                tracing::warn!("cannot accept on the socket: {error}");
                // Out of file descriptors, most likely: give others time to give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Request>) {
    let service = service_fn(move |request| answer(request, requests.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client may close its writing side before it reads the answer.
        .half_close(true)
        .header_read_timeout(CLIENT_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("a client of the socket: {error}");
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    requests: mpsc::Sender<Request>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (code, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, STATUS_PATH) => ask(&requests, Request::Status).await?,
        (&Method::GET, CONFIG_PATH) => ask(&requests, Request::Config).await?,
        (&Method::POST, EXPLAIN_PATH) => match question(request).await {
            Ok(question) => ask(&requests, |answer| Request::Explain(question, answer)).await?,
            Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}").into_bytes()),
        },
        _ => (StatusCode::NOT_FOUND, b"no such thing here".to_vec()),
    };
    Ok(Response::builder().status(code).body(Full::new(body.into()))?)
}

/// Reads what a client asks, of which there may not be much.
async fn question(request: hyper::Request<Incoming>) -> anyhow::Result<Question> {
    let body = Limited::new(request.into_body(), LONGEST_QUESTION).collect();
    let body = timeout(CLIENT_PATIENCE, body).await.context("the question does not come")?;
    let body = body.map_err(|error| anyhow!("the question cannot be read: {error}"))?.to_bytes();
    serde_json::from_slice(&body).context("the question is of another version of clb")
}

/// Hands the request to the loop, and waits for its answer.
async fn ask<T: Serialize>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<anyhow::Result<T>>) -> Request,
) -> anyhow::Result<(StatusCode, Vec<u8>)> {
    let (sender, receiver) = oneshot::channel();
    requests.send(request(sender)).await.context("the agent is ending")?;
    Ok(match receiver.await.context("the agent is ending")? {
        Ok(answer) => (StatusCode::OK, serde_json::to_vec(&answer)?),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}").into_bytes()),
    })
}

/// In bytes.
const LONGEST_QUESTION: usize = 4_096;
/// How long a client may take to say what it wants.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
