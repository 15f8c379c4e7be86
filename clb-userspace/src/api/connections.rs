//! The connections of a listening socket: not too many, none for too long, one question each.
//!
//! When all places are taken, the connection that has waited longest without a whole question gives way: clients that say
//! nothing, or never take their answer, cannot keep others out.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::AbortHandle,
    time::timeout,
};

/// A socket that clients connect to.
pub(super) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// What answers a question.
pub(super) trait Answer: Clone + Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Accepts connections for ever, and has each question answered.
pub(super) async fn serve(listener: impl Listener, answers: impl Answer) {
    let mut open = Open::default();
    loop {
        match listener.accept().await {
            Ok(stream) => open.take_in(stream, answers.clone()),
            Err(error) => {
                tracing::warn!("cannot accept on a socket: {error}");
                // Out of file descriptors, most likely: give others time to give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[derive(Default)]
struct Open(VecDeque<Connection>);

struct Connection {
    task: AbortHandle,
    stage: Stage,
}

/// Whether it is the client that is waited for, or the agent. Every request carries it among its extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage(Arc<AtomicBool>);

impl Stage {
    /// The whole question is there.
    pub fn answering(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The client has to send more, or to take its answer.
    pub fn waiting(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn is_waiting(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

impl Open {
    fn take_in(&mut self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, answers: impl Answer) {
        self.0.retain(|connection| !connection.task.is_finished());
        if self.0.len() >= MOST {
            let longest = self.0.iter().position(|connection| connection.stage.is_waiting());
            let Some(longest) = longest.and_then(|position| self.0.remove(position)) else {
                return tracing::warn!("{MOST} clients are being answered: another one is sent away");
            };
            longest.task.abort();
        }
        let stage = Stage::default();
        let task = tokio::spawn(converse(stream, answers, stage.clone())).abort_handle();
        self.0.push_back(Connection { task, stage });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, answers: impl Answer, stage: Stage) {
    let service = service_fn(|mut request: Request<Incoming>| {
        let (answers, stage) = (answers.clone(), stage.clone());
        request.extensions_mut().insert(stage.clone());
        async move {
            stage.answering();
            let answer = answers.answer(request).await;
            stage.waiting();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client may close its writing side before it reads the answer.
        .half_close(true)
        .keep_alive(false)
        .max_buf_size(LONGEST_HEAD)
        .header_read_timeout(CLIENT_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LONGEST_CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a client: {error}"),
        Err(_) => tracing::debug!("a client does not take its answer"),
    }
}

/// Connections at a time.
const MOST: usize = 128;
/// Of the request line and headers, in bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// How long a client may take to say what it wants.
pub(super) const CLIENT_PATIENCE: Duration = Duration::from_secs(5);
/// From the first byte to the last, longer than any question takes to be answered.
const LONGEST_CONNECTION: Duration = Duration::from_mins(2);
