//! What backends serve that shows whether what arrives is whole: HTTP over TCP, echo over UDP.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use clb_tests::{Host, Protocol};
use tokio::task::JoinSet;

use crate::{
    config::Listener,
    connection::{Serving, listen},
    datagrams, http,
    network::Network,
};

impl Network {
    /// Starts the services of these listeners on every backend with a weight.
    pub fn offer(&self, listeners: &[Listener]) -> Vec<Serving> {
        let hosts = (1..).zip(&self.backends);
        hosts.map(|(number, host)| offer(host, listeners, |bound| bound == number)).collect()
    }
}

/// Starts the services of those of the listeners' backends with a weight that are this host.
pub fn offer(host: &Host, listeners: &[Listener], is_host: impl Fn(usize) -> bool) -> Serving {
    let own = listeners.iter().flat_map(|listener| {
        let backends = listener.backends().filter(|&(number, _, weight)| is_host(number) && weight > 0);
        backends.map(|(_, backend, _)| Socket::open(host, listener.protocol, listener.server_address(backend)))
    });
    let sockets: Vec<_> = own.collect();
    Serving::start(async || {
        let serving: JoinSet<()> = sockets.into_iter().map(Socket::serve).collect();
        serving.join_all().await;
    })
}

enum Socket {
    Http(TcpListener),
    Datagrams(UdpSocket),
}

impl Socket {
    fn open(host: &Host, protocol: Protocol, address: SocketAddr) -> Self {
        match protocol {
            Protocol::Tcp => Self::Http(listen(host, address)),
            Protocol::Udp => Self::Datagrams(datagrams::bind(host, address)),
        }
    }

    async fn serve(self) {
        match self {
            Self::Http(listener) => http::serve(listener.try_into().unwrap()).await,
            Self::Datagrams(socket) => datagrams::echo(socket.try_into().unwrap()).await,
        }
    }
}
