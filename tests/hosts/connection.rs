//! A TCP connection that stays open, and large transfers over it, to a server that sends back whatever it gets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener as StdTcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use clb_tests::Host;
use tokio::{io, net::TcpListener, runtime::Builder, sync::oneshot};

/// A running server, until dropped.
pub struct EchoServer {
    _serving: Serving,
}

impl EchoServer {
    pub fn start(host: &Host, address: SocketAddr) -> Self {
        let listener = listen(host, address);
        Self { _serving: Serving::start(async || serve(listener.try_into().unwrap()).await) }
    }
}

/// A thread that serves, until dropped. A socket stays on the host where it was made, so the thread need not be on it.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub fn start(serve: impl AsyncFnOnce() + Send + 'static) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                // Told to stop, or forgotten: either way the runtime ends with this thread, and all connections with it.
                tokio::select! {
                    _ = stopped => {}
                    () = serve() => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A socket of a host that takes connections, for a runtime.
pub fn listen(host: &Host, address: SocketAddr) -> StdTcpListener {
    let listener = host.enter(|| StdTcpListener::bind(address)).unwrap();
    let listener = listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"));
    listener.set_nonblocking(true).unwrap();
    listener
}

async fn serve(listener: TcpListener) {
    while let Ok((mut connection, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = connection.split();
            // A connection that breaks is the client's to report.
            let _ = io::copy(&mut from, &mut to).await;
        });
    }
}

/// The client's end of a connection to an echo server.
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    pub fn open(host: &Host, target: SocketAddr) -> Self {
        let stream = host.enter(|| TcpStream::connect_timeout(&target, DEADLINE)).unwrap();
        let stream = stream.unwrap_or_else(|error| panic!("connect to {target}: {error}"));
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream }
    }

    /// Sends so many bytes, and receives the same ones at the same time.
    pub fn exchange(&mut self, bytes: usize) {
        let sent: Vec<u8> = (0..bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
        let mut received = vec![0; bytes];
        thread::scope(|scope| {
            let mut writer = self.stream.try_clone().unwrap();
            let sent = &sent;
            scope.spawn(move || writer.write_all(sent).unwrap());
            self.stream.read_exact(&mut received).unwrap_or_else(|error| panic!("receive {bytes} bytes: {error}"));
        });
        assert!(sent == received, "{bytes} bytes came back as others");
    }
}

const DEADLINE: Duration = Duration::from_secs(10);
