//! A connection that has to stand within a time of its own. Pingora has one time-out for it and for the TLS handshake on it, each by itself, so with TLS
//! that one is the handshake's, and connecting is bounded here. Without TLS Pingora connects by itself.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, Result};
use tokio::net::{TcpStream, UnixStream};

/// Connects within this time.
#[derive(Debug)]
pub(super) struct Dial(pub Duration);

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match tokio::time::timeout(self.0, connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Error::because(kind(&error), format!("connecting to {address}"), error)),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, format!("connecting to {address}: {:?}", self.0)),
        }
    }
}

async fn connect(address: &SocketAddr) -> io::Result<Stream> {
    match address {
        SocketAddr::Inet(address) => Ok(TcpStream::connect(address).await?.into()),
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().ok_or_else(|| io::Error::other("a Unix socket without a path"))?;
            Ok(UnixStream::connect(path).await?.into())
        }
    }
}

fn kind(error: &io::Error) -> ErrorType {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn dial(address: &str) -> Result<Stream> {
        Dial(Duration::from_millis(300)).connect(&SocketAddr::Inet(address.parse().unwrap())).await
    }

    #[tokio::test]
    async fn who_listens_is_reached_and_who_does_not_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(dial(&address).await.is_ok());
        drop(listener);
        assert_eq!(*dial(&address).await.unwrap_err().etype(), ErrorType::ConnectRefused);
        let nowhere = std::os::unix::net::SocketAddr::from_pathname("/nonexistent/users.sock").unwrap();
        let refused = Dial(Duration::from_secs(1)).connect(&SocketAddr::Unix(nowhere)).await.unwrap_err();
        assert_eq!(*refused.etype(), ErrorType::ConnectError);
    }
}
