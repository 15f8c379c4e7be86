//! An HTTP/1.1 request; of the answer no more is read than its head, and of that no more than [`MAX_HEAD`].

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Failure, bad, tcp};
use crate::config::{HttpCheck, HttpMethod};

/// Asks, and judges the status.
pub async fn check(backend: SocketAddr, asked: &HttpCheck) -> Result<(), Failure> {
    let mut stream = tcp::check(backend).await?;
    let method = match asked.method {
        HttpMethod::Get => "GET",
        HttpMethod::Head => "HEAD",
    };
    let host = asked.host.clone().unwrap_or_else(|| backend.to_string());
    let path = &asked.path;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: clb\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    loop {
        let room = MAX_HEAD - head.len();
        if room == 0 {
            return Err(bad(format!("no end of the HTTP head within {MAX_HEAD} bytes")));
        }
        if (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            return Err(bad("the connection was closed before an HTTP status"));
        }
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head);
        // What follows the status is not judged.
        if let Some(status) = response.code
            && response.reason.is_some()
        {
            let expected = asked.status;
            let is_good = expected.contains(status);
            return if is_good { Ok(()) } else { Err(bad(format!("HTTP status {status}, expected {expected}"))) };
        }
        if parsed.is_err() {
            return Err(bad("the answer is not HTTP/1"));
        }
    }
}

const MAX_HEAD: usize = 16 << 10;
