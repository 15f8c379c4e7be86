//! A UDP datagram, from a connected socket: the kernel then reports an ICMP port unreachable as a refusal.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{Failure, bad};
use crate::config::UdpCheck;

/// Sends and waits for an answer or a refusal; the caller judges silence.
pub async fn check(backend: SocketAddr, asked: &UdpCheck) -> Result<(), Failure> {
    let local = if backend.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind::<SocketAddr>(local).await?;
    socket.connect(backend).await?;
    socket.send(asked.send.as_bytes()).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let length = socket.recv(&mut answer).await?;
    match &asked.expect {
        Some(expected) if !contains(&answer[..length], expected.as_bytes()) => {
            Err(bad(format!("the answer does not contain \"{expected}\"")))
        }
        _ => Ok(()),
    }
}

/// No datagram is longer.
const MAX_ANSWER: usize = 1 << 16;

fn contains(answer: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || answer.windows(expected.len()).any(|part| part == expected)
}
