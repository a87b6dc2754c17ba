//! The connection below HTTP: lets an instance reset it, or cut it in the middle of an answer.
//! Handlers reach their own connection as a [`Line`]; everything else about HTTP is axum's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// What a handler may do to the connection its request came on.
#[derive(Clone)]
pub struct Line(Arc<Cut>);

struct Cut {
    /// Bytes that may still be written.
    allowance: AtomicU64,
    /// Whether the end is a reset instead of a plain close.
    reset: AtomicBool,
}

impl Line {
    /// Resets the connection instead of writing the answer.
    pub fn reset(&self) {
        self.0.reset.store(true, Ordering::Relaxed);
        self.0.allowance.store(0, Ordering::Relaxed);
    }

    /// Closes the connection after so many bytes of the answer, its header included.
    pub fn cut_after(&self, bytes: u64) {
        self.0.allowance.store(bytes, Ordering::Relaxed);
    }
}

/// Accepts connections whose [`Line`] can be cut.
pub struct Lines {
    listener: TcpListener,
    address: SocketAddr,
}

impl Lines {
    /// Listens on the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for Lines {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        // A small answer must not wait for the client's acknowledgement.
        let _ = stream.set_nodelay(true);
        let cut = Arc::new(Cut { allowance: AtomicU64::new(u64::MAX), reset: AtomicBool::new(false) });
        (Wire { stream, cut }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, Lines>> for Line {
    fn connect_info(stream: IncomingStream<'_, Lines>) -> Self {
        Self(Arc::clone(&stream.io().cut))
    }
}

/// A TCP stream that stops where its [`Line`] says.
pub struct Wire {
    stream: TcpStream,
    cut: Arc<Cut>,
}

impl Wire {
    fn end(&self) -> io::Error {
        if self.cut.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowance = self.cut.allowance.load(Ordering::Relaxed);
        if allowance == u64::MAX {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        if allowance == 0 {
            return Poll::Ready(Err(self.end()));
        }
        let most = bytes.len().min(usize::try_from(allowance).unwrap_or(usize::MAX));
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..most]);
        if let Poll::Ready(Ok(count)) = &written {
            self.cut.allowance.store(allowance - *count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
