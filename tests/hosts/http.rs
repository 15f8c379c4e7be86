//! HTTP: a document that a server gives to whoever asks, and takes from whoever brings the same one.

use std::{convert::Infallible, net::SocketAddr, sync::LazyLock, time::Duration};

use clb_tests::Host;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::timeout,
};

/// Downloads so much of the document, and uploads it; both must be the same at both ends.
pub fn transfer(client: &Host, target: SocketAddr, length: usize) -> Result<(), String> {
    download(client, target, length)?;
    upload(client, target, length)
}

pub fn download(client: &Host, target: SocketAddr, length: usize) -> Result<(), String> {
    let request = Request::get(format!("/{length}")).body(Full::default()).unwrap();
    let (code, body) = exchange(client, target, request)?;
    if code == StatusCode::OK && body == document(length) {
        return Ok(());
    }
    Err(format!("{code} with {} bytes, which are not the document's {length}", body.len()))
}

pub fn upload(client: &Host, target: SocketAddr, length: usize) -> Result<(), String> {
    let request = Request::put(format!("/{length}")).body(document(length).into()).unwrap();
    let (code, _) = exchange(client, target, request)?;
    if code == StatusCode::OK { Ok(()) } else { Err(format!("{code}: another document arrived")) }
}

fn exchange(client: &Host, target: SocketAddr, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let exchange = async {
        let stream = TcpStream::connect(target).await.map_err(|error| format!("connect: {error}"))?;
        let (mut sender, connection) =
            client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| format!("send: {error}"))?;
        let code = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("receive: {error}"))?.to_bytes();
        connection.abort();
        Ok((code, body))
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let work = || runtime.block_on(async { timeout(DEADLINE, exchange).await });
    client.enter(work).unwrap().map_err(|_| format!("not over after {} s", DEADLINE.as_secs()))?
}

pub async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        // A connection that breaks is the client's to report.
        tokio::spawn(connection);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let length = request.uri().path().trim_start_matches('/').parse().unwrap_or_default();
    let method = request.method().clone();
    let received = request.into_body().collect().await.map(Collected::to_bytes);
    let (code, body) = match (method, received) {
        (Method::GET, Ok(_)) => (StatusCode::OK, document(length)),
        (Method::PUT, Ok(body)) if body == document(length) => (StatusCode::OK, Bytes::new()),
        _ => (StatusCode::BAD_REQUEST, Bytes::new()),
    };
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    Ok(response)
}

/// So much of the document. No part of it is like another, so that nothing can be lost or doubled unseen.
fn document(length: usize) -> Bytes {
    static WHOLE: LazyLock<Bytes> = LazyLock::new(|| {
        (0..LONGEST / 8).flat_map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect()
    });
    WHOLE.slice(..length.min(WHOLE.len()))
}

const LONGEST: usize = 10_000_000;
const DEADLINE: Duration = Duration::from_secs(20);
