//! UDP datagrams of every size, also of those that travel in fragments, to a server that sends back whatever it gets.

use std::{
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    time::Duration,
};

use clb_tests::Host;
use tokio::net::UdpSocket;

/// Sends a datagram of each size on each of several flows at once, and has all of them come back as they were.
pub fn exchange(client: &Host, target: SocketAddr, sizes: impl Iterator<Item = usize> + Send) -> Result<(), String> {
    let exchange = move || {
        let sockets: Vec<_> = (0..FLOWS).map(|_| connect(target, DEADLINE)).collect();
        let mut received = vec![0; LONGEST];
        for size in sizes {
            let content = |flow: usize| (0..size).map(|at| (at ^ (at >> 8) ^ flow) as u8).collect::<Vec<_>>();
            let flows: Vec<_> = sockets.iter().enumerate().collect();
            for flows in flows.chunks((MOST_BYTES / size.max(1)).max(1)) {
                for (flow, socket) in flows {
                    socket.send(&content(*flow)).map_err(|error| format!("send {size} bytes: {error}"))?;
                }
                for (flow, socket) in flows {
                    let length = socket.recv(&mut received).map_err(|error| format!("{size} bytes: {error}"))?;
                    if received[..length] != content(*flow) {
                        return Err(format!("{size} bytes came back as {length}, or as others"));
                    }
                }
            }
        }
        Ok(())
    };
    client.enter(exchange).unwrap()
}

/// Whether a datagram of this size comes back soon.
pub fn comes_back(client: &Host, target: SocketAddr, size: usize) -> bool {
    let exchange = || {
        let socket = connect(target, SOON);
        socket.send(&vec![0; size]).is_ok() && socket.recv(&mut vec![0; LONGEST]).is_ok_and(|length| length == size)
    };
    client.enter(exchange).unwrap()
}

fn connect(target: SocketAddr, deadline: Duration) -> StdUdpSocket {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = StdUdpSocket::bind(any).unwrap();
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(deadline)).unwrap();
    socket
}

/// A socket of a host that takes datagrams, for a runtime.
pub fn bind(host: &Host, address: SocketAddr) -> StdUdpSocket {
    let socket = host.enter(|| StdUdpSocket::bind(address)).unwrap();
    let socket = socket.unwrap_or_else(|error| panic!("serve on {address}: {error}"));
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends back what datagrams bring.
pub async fn echo(socket: UdpSocket) {
    let mut datagram = vec![0; LONGEST];
    loop {
        // An error here is of an earlier answer; the client reports that it does not have it.
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let _ = socket.send_to(&datagram[..length], client).await;
    }
}

const FLOWS: usize = 4;
/// So many bytes at a time fit the buffer of a server's socket, with all that the kernel counts to them.
const MOST_BYTES: usize = 36_000;
const LONGEST: usize = 65_535;
const SOON: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(5);
