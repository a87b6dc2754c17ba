//! A client's HTTP/1 connection on which an answer keeps the `Date` of its making: Pingora writes its own clock on every answer,
//! and a cache may not (RFC 9111 section 4: fields of a stored answer are sent as they are).
//! The date is put in its place among the bytes of the next header that is written. HTTP/2 has no such place: there `Date` is
//! the time of sending, and `Age` is right.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::header::DATE;
use parking_lot::Mutex;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `Sun, 06 Nov 1994 08:49:37 GMT`
const DATE_BYTES: usize = 29;

const FIELD: &[u8] = b"\r\ndate: ";

/// A connection whose next header may have a date of its own.
#[derive(Debug)]
pub(super) struct Dated {
    stream: Stream,
    has_date: AtomicBool,
    date: Mutex<Option<Place>>,
}

/// A date, and where it goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    date: [u8; DATE_BYTES],
    /// How many bytes are written before it; below zero within it. None: its field has not been seen.
    ahead: Option<isize>,
}

impl Dated {
    pub(super) fn wrap(stream: Stream) -> Stream {
        Box::new(Self { stream, has_date: AtomicBool::new(false), date: Mutex::new(None) })
    }

    /// The header that is written next keeps the date that it has.
    pub(super) fn keep(session: &Session, response: &ResponseHeader) {
        let Some(stream) = session.as_downstream().stream() else { return };
        let Some(dated) = (**stream).as_any().downcast_ref::<Self>() else { return };
        let date = response.headers.get(DATE).and_then(|date| date.as_bytes().try_into().ok());
        *dated.date.lock() = date.map(|date| Place { date, ahead: None });
        dated.has_date.store(date.is_some(), Ordering::Release);
    }

    /// What is written instead of these bytes, where the date is among them.
    fn patched(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut date = self.date.lock();
        let place = date.as_mut()?;
        if place.ahead.is_none() {
            let head = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes, |end| &bytes[..end]);
            let at = head.windows(FIELD.len()).position(|window| window.eq_ignore_ascii_case(FIELD))?;
            place.ahead = Some((at + FIELD.len()).cast_signed());
        }
        let ahead = place.ahead?;
        let mut patched = bytes.to_vec();
        for (index, byte) in place.date.iter().enumerate() {
            let at = ahead + index.cast_signed();
            if let Some(old) = usize::try_from(at).ok().and_then(|at| patched.get_mut(at)) {
                *old = *byte;
            }
        }
        Some(patched)
    }

    fn wrote(&self, bytes: usize) {
        let mut date = self.date.lock();
        let Some(ahead) = date.as_mut().and_then(|place| place.ahead.as_mut()) else { return };
        *ahead -= bytes.cast_signed();
        if *ahead <= -DATE_BYTES.cast_signed() {
            *date = None;
            self.has_date.store(false, Ordering::Release);
        }
    }
}

impl AsyncRead for Dated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if !self.has_date.load(Ordering::Acquire) {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        let patched = self.patched(bytes);
        let written = Pin::new(&mut self.stream).poll_write(cx, patched.as_deref().unwrap_or(bytes));
        if let Poll::Ready(Ok(count)) = written {
            self.wrote(count);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if self.has_date.load(Ordering::Acquire) {
            let first = bytes.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Dated {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

#[async_trait]
impl Peek for Dated {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> Result<bool> {
        self.stream.try_peek(buffer).await
    }
}

impl UniqueID for Dated {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Dated {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Dated {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Dated {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Dated {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const STORED: &[u8; DATE_BYTES] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    /// What arrives of pieces that are written one after the other.
    async fn arrives(pieces: &[&str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = pingora_core::protocols::l4::stream::Stream::from(listener.accept().await.unwrap().0);
        let place = Mutex::new(Some(Place { date: *STORED, ahead: None }));
        let mut dated = Dated { stream: Box::new(stream), has_date: AtomicBool::new(true), date: place };
        for piece in pieces {
            dated.write_all(piece.as_bytes()).await.unwrap();
            dated.flush().await.unwrap();
        }
        drop(dated);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_date_of_one_header_is_replaced_however_it_is_cut() {
        let head = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2035 00:00:00 GMT\r\nX: 1\r\n\r\n";
        let stored = head.replace("Mon, 01 Jan 2035 00:00:00 GMT", std::str::from_utf8(STORED).unwrap());
        assert_eq!(arrives(&[head, head]).await, format!("{stored}{head}"));
        for cut in 27..head.len() {
            assert_eq!(arrives(&[&head[..cut], &head[cut..]]).await, stored, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_body_is_left_alone() {
        let bytes = "HTTP/1.1 200 OK\r\n\r\n\r\nDate: Mon, 01 Jan 2035 00:00:00 GMT\r\n";
        assert_eq!(arrives(&[bytes]).await, bytes);
    }
}
