//! A UDP datagram, from a connected socket: the kernel then reports an ICMP port unreachable as a refusal.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

use super::Cause;
use crate::config::UdpCheck;

/// Sends and waits; silence is a failure only where an answer is expected.
pub async fn check(backend: SocketAddr, asked: &UdpCheck, patience: Duration) -> Result<(), Cause> {
    let local = if backend.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind::<SocketAddr>(local).await?;
    socket.connect(backend).await?;
    socket.send(asked.send.as_bytes()).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let length = match (timeout(patience, socket.recv(&mut answer)).await, &asked.expect) {
        (Ok(received), _) => received?,
        (Err(_), None) => return Ok(()),
        (Err(_), Some(_)) => return Err(Cause::silence(patience)),
    };
    match &asked.expect {
        Some(expected) if !contains(&answer[..length], expected.as_bytes()) => {
            Err(Cause(format!("the answer does not contain \"{expected}\"")))
        }
        _ => Ok(()),
    }
}

/// No datagram is longer.
const MAX_ANSWER: usize = 1 << 16;

fn contains(answer: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || answer.windows(expected.len()).any(|part| part == expected)
}
