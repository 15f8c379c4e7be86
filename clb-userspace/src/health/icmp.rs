//! An ICMP echo, from a raw socket: that of unprivileged users is closed to root too where the system's settings leave it
//! so. The socket is connected, so the kernel hands it the backend's packets only.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv4HeaderSlice};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Cause;

/// Asks for an echo, and waits for it.
pub async fn check(backend: IpAddr, echo: (u16, u16)) -> Result<(), Cause> {
    let (domain, protocol) = match backend {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    socket.connect(&SocketAddr::new(backend, 0).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let echo = IcmpEchoHeader { id: echo.0, seq: echo.1 };
    match backend {
        IpAddr::V4(_) => {
            let request = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &[]);
            socket.send(&request.to_bytes()).await?;
        }
        // The kernel writes this checksum.
        IpAddr::V6(_) => {
            socket.send(&Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes()).await?;
        }
    }
    let mut packet = [0; 2048];
    loop {
        let length = socket.recv(&mut packet).await?;
        if is_reply(backend, &packet[..length], echo) {
            return Ok(());
        }
    }
}

fn is_reply(backend: IpAddr, packet: &[u8], echo: IcmpEchoHeader) -> bool {
    match backend {
        IpAddr::V4(_) => Ipv4HeaderSlice::from_slice(packet)
            .ok()
            .and_then(|ip| Icmpv4Header::from_slice(&packet[ip.slice().len()..]).ok())
            .is_some_and(|(icmp, _)| icmp.icmp_type == Icmpv4Type::EchoReply(echo)),
        IpAddr::V6(_) => {
            Icmpv6Header::from_slice(packet).is_ok_and(|(icmp, _)| icmp.icmp_type == Icmpv6Type::EchoReply(echo))
        }
    }
}
