//! The servers: HTTP as small as it gets, so that most of what is measured is the way there.
//!
//! An answer's body is the number of the backend, so that every one tells who gave it. The server closes first, where that
//! is wanted: what then waits for late packets is a server's, and clients do not run out of ports.

use std::{
    io,
    net::SocketAddr,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use clb_tests::Host;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Builder,
    sync::oneshot,
};

/// The servers of one backend, until dropped.
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts one at each of these addresses. A backend has one thread.
    pub fn start(host: &Host, number: usize, addresses: &[SocketAddr]) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("make a runtime")?;
        let listeners = host.enter(|| {
            let _inside = runtime.enter();
            addresses.iter().map(|&address| listen(address)).collect::<Result<Vec<_>>>()
        })??;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(format!("servers of {}", host.label())).spawn(move || {
            runtime.block_on(async {
                for listener in listeners {
                    tokio::spawn(serve(listener, number));
                }
                // It ends with the one who may tell.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that panicked has said so itself.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a client asks, with or without the wish that the connection be closed.
pub const KEEP_ALIVE: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
pub const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
/// What ends the head of a request, and of an answer.
pub const END_OF_HEAD: &[u8] = b"\r\n\r\n";

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).and_then(|()| socket.listen(BACKLOG)).with_context(|| format!("serve on {address}"))
}

async fn serve(listener: TcpListener, number: usize) {
    loop {
        // One that cannot be accepted is the client's to report.
        if let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer(connection, number));
        }
    }
}

async fn answer(mut connection: TcpStream, number: usize) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
    let (mut request, mut length) = ([0; 256], 0);
    loop {
        match connection.read(&mut request[length..]).await? {
            0 => return Ok(()),
            more => length += more,
        }
        let asked = &request[..length];
        if asked.ends_with(END_OF_HEAD) {
            connection.write_all(answer.as_bytes()).await?;
            if asked == CLOSE {
                return Ok(());
            }
            length = 0;
        }
    }
}

const BACKLOG: u32 = 4096;
