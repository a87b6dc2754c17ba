//! The connection below HTTP: lets an instance reset it, cut it in the middle of an answer, drip, or say something else than HTTP,
//! and accept no connection for a while. Handlers reach their own connection as a [`Line`]; everything else about HTTP is axum's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::failure::{Failure, Failures};

/// What a garbled answer begins with, and all there is of it.
const GARBAGE: &[u8] = b"220 mail.example ESMTP\r\n\r\n";

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// What a handler may do to the connection its request came on.
#[derive(Clone)]
pub struct Line(Arc<Cut>);

struct Cut {
    /// Requests that came on it.
    requests: AtomicU64,
    /// Bytes that may still be written.
    allowance: AtomicU64,
    /// Whether the end is a reset instead of a plain close.
    reset: AtomicBool,
    /// Whether the next thing written is garbage instead.
    garbage: AtomicBool,
    /// After each byte, in microseconds; 0 writes at once.
    pause_us: AtomicU64,
}

impl Line {
    /// Counts a request; whether it is the first of the connection.
    pub fn begins_request(&self) -> bool {
        self.0.requests.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Ends the connection after so many bytes of the answer, its header included.
    pub fn cut_after(&self, bytes: u64, is_reset: bool) {
        self.0.reset.store(is_reset, Ordering::Relaxed);
        self.0.allowance.store(bytes, Ordering::Relaxed);
    }

    /// Writes something that is not HTTP, and ends the connection.
    pub fn garble(&self) {
        self.0.garbage.store(true, Ordering::Relaxed);
        self.cut_after(0, false);
    }

    /// Writes byte by byte from now on.
    pub fn drip(&self, pause: Duration) {
        self.0.pause_us.store(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Accepts connections whose [`Line`] can be cut.
pub struct Lines {
    /// None while connections are refused.
    listener: Option<TcpListener>,
    address: SocketAddr,
    failures: watch::Receiver<Failures>,
}

impl Lines {
    /// Listens on the address, but for the times at which connections are to fail; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, failures: watch::Receiver<Failures>) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: Some(listener), address, failures })
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn failure(&mut self) -> Option<Failure> {
        self.failures.borrow_and_update().of_connections()
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // After a while of refusing, its old connections must not keep it from listening again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Listener for Lines {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            let failure = self.failure();
            if failure == Some(Failure::Refuse) {
                self.listener = None;
                let _ = self.failures.changed().await;
                continue;
            }
            let Some(listener) = &mut self.listener else {
                match listen(self.address) {
                    Ok(listener) => self.listener = Some(listener),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
                continue;
            };
            let (stream, peer) = tokio::select! {
                accepted = Listener::accept(listener) => accepted,
                _ = self.failures.changed() => continue,
            };
            if failure == Some(Failure::Close) {
                continue;
            }
            // A small answer must not wait for the client's acknowledgement.
            let _ = stream.set_nodelay(true);
            return (Wire { stream, cut: Arc::default(), pause: None }, peer);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            allowance: AtomicU64::new(u64::MAX),
            reset: AtomicBool::new(false),
            garbage: AtomicBool::new(false),
            pause_us: AtomicU64::new(0),
        }
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
    /// Until the next byte of an answer that drips.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    fn end(&self) -> io::Error {
        if self.cut.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
        io::ErrorKind::ConnectionReset.into()
    }

    /// One byte, and the pause after it.
    fn poll_drip(&mut self, pause: Duration, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(waits) = &mut self.pause {
            ready!(waits.as_mut().poll(cx));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[..bytes.len().min(1)]));
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        Poll::Ready(written)
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
            return match self.cut.pause_us.load(Ordering::Relaxed) {
                0 => Pin::new(&mut self.stream).poll_write(cx, bytes),
                pause => self.poll_drip(Duration::from_micros(pause), cx, bytes),
            };
        }
        if allowance == 0 {
            if self.cut.garbage.swap(false, Ordering::Relaxed) {
                // So little is written at once, or the client is gone.
                let _ = ready!(Pin::new(&mut self.stream).poll_write(cx, GARBAGE));
            }
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
