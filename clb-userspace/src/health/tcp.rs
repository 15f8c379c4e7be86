//! A TCP connection is a good answer; it is closed at once.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::Failure;

/// Connects.
pub async fn check(backend: SocketAddr) -> Result<TcpStream, Failure> {
    Ok(TcpStream::connect(backend).await?)
}
