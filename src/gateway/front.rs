//! The connection before and between requests: TLS, the first byte, the deadline of the header, the bounds on connections.
//! Pingora is entered only with a complete header, so an idle connection costs a small task and no buffer.
//! Not here: anything that reads what a header says; that begins in `admit`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::protocols::l4::stream::Stream as TcpStream;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::answer::{self, Raw};
use super::connection::{Accepted, Busy, Connection, Crowded};
use super::current::{Current, with_current};
use super::dated::Dated;
use super::deadline::{Alarm, with_deadline};
use super::flood::{self, TurnedAway};
use super::hit::{self, Outcome};
use super::{Gateway, Parts};
use crate::refusal::Refusal;

/// Bytes read at once while a header arrives; most headers fit.
const READ_BYTES: usize = 4 << 10;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an HTTP/2 client may take to answer that the connection ends.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Seconds that Pingora is told a connection may stay; the front itself closes idle ones.
const KEEP_ALIVE_SECONDS: u64 = 60;

/// One listener's connections.
pub struct Front {
    entrance: Arc<Entrance>,
    /// Told once, when the listener is closed and nothing is in flight.
    drained: UnboundedSender<()>,
}

/// Where a connection comes in, and what it comes to.
pub struct Entrance {
    /// Pingora, with the gateway in its hooks.
    pub proxy: Arc<HttpProxy<Gateway>>,
    /// The gateway itself.
    pub parts: Arc<Parts>,
    /// The listener.
    pub listener: Listener,
}

/// What a listener does with a new connection.
pub struct Listener {
    /// TLS, where it has certificates.
    pub tls: Option<Acceptor>,
    /// Whether every request is sent to https.
    pub redirects_to_https: bool,
}

/// What a wait for a request header ended with.
enum Head {
    /// A complete header, and whatever came with it.
    Complete(BytesMut),
    /// Nothing more will come, or nothing came in time.
    Gone,
    /// The header took too long.
    TooSlow,
    /// The header is larger than `connections.header_max`.
    TooLarge,
}

impl Front {
    /// The front of a listener; `drained` is told when its last request is done after the listener has closed.
    pub fn new(entrance: Entrance, drained: UnboundedSender<()>) -> Self {
        Self { entrance: Arc::new(entrance), drained }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        // A task of its own frees the large one in which the connection was accepted.
        let (entrance, shutdown) = (Arc::clone(&self.entrance), shutdown.clone());
        self.entrance.parts.census.spawn(|idle_until| serve(entrance, stream, idle_until, shutdown));
        None
    }

    /// Runs once, when the listener is closed.
    async fn cleanup(&self) {
        self.entrance.proxy.http_cleanup().await;
        self.entrance.parts.census.close_idle();
        self.entrance.parts.census.idle().await;
        // The receiver is gone when the process is told to end at once.
        let _ = self.drained.send(());
    }
}

/// A connection from its first byte to its last.
async fn serve(entrance: Arc<Entrance>, stream: Stream, idle_until: Arc<AtomicU64>, shutdown: ShutdownWatch) {
    let Some((stream, connection)) = enter(&entrance, stream, idle_until).await else { return };
    if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
        // In a box, so that connections of HTTP/1 do not pay for its size.
        Box::pin(serve_http2(entrance, connection, stream, shutdown)).await;
    } else {
        serve_http1(&entrance, &connection, Dated::wrap(stream), &shutdown).await;
    }
}

/// Streams of HTTP/2 until the connection ends, or until it has said goodbye at shutdown.
async fn serve_http2(
    entrance: Arc<Entrance>,
    connection: Arc<Connection>,
    stream: Stream,
    mut shutdown: ShutdownWatch,
) {
    let streams = Arc::new(H2Streams { entrance, connection: Arc::clone(&connection), active: AtomicUsize::new(0) });
    let told = shutdown.clone();
    let mut served = pin!(ServerApp::process_new(&streams, stream, &told));
    tokio::select! {
        _ = &mut served => return,
        _ = shutdown.wait_for(|down| *down) => {}
    }
    // The last frames of an answer are written by this task, after the answer's own: so the connection counts
    // as busy until it has ended, or until its client has not said goodbye in time.
    let _busy = connection.busy();
    while timeout(GOODBYE_TIMEOUT, &mut served).await.is_err() {
        if streams.active.load(Ordering::Acquire) == 0 {
            return;
        }
    }
}

/// Counts the connection and makes it talk TLS where the listener does; none where it is turned away.
async fn enter(
    entrance: &Entrance,
    mut stream: Stream,
    idle_until: Arc<AtomicU64>,
) -> Option<(Stream, Arc<Connection>)> {
    let Entrance { parts, listener, .. } = entrance;
    let peer = *stream.get_socket_digest()?.peer_addr()?.as_inet()?;
    let runtime = parts.live.load();
    let bounds = &runtime.config.connections;
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    let accepted = Accepted { peer, scheme, redirects_to_https: listener.redirects_to_https, idle_until };
    let trusted = runtime.trusted_proxies.contains(peer.ip().to_canonical());
    let per_client_max = (!trusted).then_some(bounds.per_client_max);
    let connection = match Connection::open(&parts.census, &accepted, bounds.total_max, per_client_max) {
        Ok(connection) => connection,
        Err(crowded) => {
            parts.metrics.rejected(match crowded {
                Crowded::Total => "connections_total",
                Crowded::Client => "connections_per_client",
            });
            return None;
        }
    };
    if let Some(acceptor) = &listener.tls {
        let tcp = *stream.into_any().downcast::<TcpStream>().ok()?;
        // In a box that is gone after the handshake: without it every connection would keep room for one.
        match timeout(HANDSHAKE_TIMEOUT, Box::pin(acceptor.tls_handshake(tcp))).await {
            Ok(Ok(tls)) => stream = Box::new(tls),
            Ok(Err(error)) => {
                parts.metrics.rejected("tls_handshake");
                log::debug!("TLS handshake with {peer} failed: {error}");
                return None;
            }
            Err(_) => {
                parts.metrics.rejected("tls_timeout");
                return None;
            }
        }
    }
    Some((stream, connection))
}

async fn serve_http1(entrance: &Entrance, connection: &Arc<Connection>, mut stream: Stream, shutdown: &ShutdownWatch) {
    let parts = &entrance.parts;
    let mut settings: Option<HttpPersistentSettings> = None;
    let mut alarm = Alarm::default();
    loop {
        let idle_timeout = parts.live.with(|runtime| runtime.config.connections.idle_timeout.0);
        let Some((head, _busy)) = first_bytes(&mut stream, connection, idle_timeout).await else { return };
        let (head_max, header_timeout) = parts.live.with(|runtime| {
            let bounds = &runtime.config.connections;
            (usize::try_from(bounds.header_max.0).unwrap_or(usize::MAX), bounds.header_timeout.0)
        });
        let head = match rest_of_head(&mut stream, head, header_timeout, head_max).await {
            Head::Complete(head) => head,
            Head::Gone => return parts.metrics.rejected("incomplete_header"),
            Head::TooSlow => return reject(parts, &mut stream, "header_timeout", &Refusal::ClientTimeout).await,
            Head::TooLarge => return reject(parts, &mut stream, "header_too_large", &Refusal::HeaderTooLarge).await,
        };
        if head.starts_with(b"CONNECT ") {
            let refusal = Refusal::MethodNotAllowed { allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into() };
            return reject(parts, &mut stream, "connect", &refusal).await;
        }
        let guarded = flood::ask(parts, connection);
        // What is refused and can't be answered here is refused by `admit`, which asks again.
        let is_counted = matches!(guarded, Some(Ok(())));
        if let Some(Err(refusal)) = guarded {
            match flood::turn_away(parts, connection, &mut stream, &head, refusal).await {
                TurnedAway::Open => continue,
                TurnedAway::Closed => return,
                TurnedAway::NotUnderstood => {}
            }
        }
        let (head, current) = match hit::try_answer(parts, connection, is_counted, &mut stream, head).await {
            Outcome::Answered => continue,
            Outcome::Gone => return,
            Outcome::LeftToPingora(head, current) => (head, current),
        };
        let mut session = ServerSession::new_http1(stream);
        match settings.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(KEEP_ALIVE_SECONDS)),
        }
        session.set_pipelined_prefix(head);
        let request = entrance.proxy.process_new_http(session, shutdown);
        let (reused, became_exchange) = with_current(current, with_deadline(&mut alarm, request)).await;
        if !became_exchange {
            parts.metrics.rejected("malformed");
        }
        let Some(reused) = reused else { return };
        (stream, settings) = reused.consume();
    }
}

/// Waits for the first bytes of a request without holding a buffer or a timer; none when there will be none.
/// The connection is busy before it is idle no more, so that at shutdown it is always one of both.
async fn first_bytes<'a>(
    stream: &mut Stream,
    connection: &'a Connection,
    idle_timeout: Duration,
) -> Option<(BytesMut, Busy<'a>)> {
    let mut is_idle = false;
    std::future::poll_fn(|cx| {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let read = pin!(stream.read_buf(&mut buffer)).poll(cx);
        match read {
            Poll::Pending if is_idle => Poll::Pending,
            Poll::Pending => {
                is_idle = true;
                // The buffer is gone while nothing comes. What is there when the listener closes is still answered.
                if connection.begins_to_idle(idle_timeout) { Poll::Pending } else { Poll::Ready(None) }
            }
            Poll::Ready(read) => {
                let busy = connection.busy();
                let may_go_on = !is_idle || connection.stops_to_idle();
                Poll::Ready(read.is_ok_and(|read| read > 0 && may_go_on).then_some((buffer, busy)))
            }
        }
    })
    .await
}

/// Reads until the header is complete: at an empty line, with or without carriage returns, as Pingora's parser has it.
async fn rest_of_head(stream: &mut Stream, mut head: BytesMut, time: Duration, max: usize) -> Head {
    // Known only where a header comes in pieces: most come whole, and need no clock.
    let mut deadline = None;
    let mut seen = 0;
    loop {
        skip_empty_lines(&mut head);
        if let Some(end) = end_of_head(&head, seen) {
            return if end > max { Head::TooLarge } else { Head::Complete(head) };
        }
        if head.len() > max {
            return Head::TooLarge;
        }
        seen = head.len();
        head.reserve(READ_BYTES);
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + time);
        match timeout_at(deadline, stream.read_buf(&mut head)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) => return Head::Gone,
            Err(_) => return Head::TooSlow,
        }
    }
}

/// Drops empty lines before a request, as Pingora's parser does (RFC 9112 section 2.2). They would be taken for the end
/// of a header, and Pingora would wait for the header itself, without a deadline and a bound.
fn skip_empty_lines(head: &mut BytesMut) {
    loop {
        match **head {
            [b'\n', ..] => head.advance(1),
            [b'\r', b'\n', ..] => head.advance(2),
            _ => return,
        }
    }
}

/// Where the header ends, behind its empty line; what was `seen` before has none.
fn end_of_head(head: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(2);
    let mut line_ends = memchr::memchr_iter(b'\n', &head[from..]).map(|at| from + at + 1);
    line_ends.find_map(|at| match &head[at..] {
        [b'\n', ..] => Some(at + 1),
        [b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    })
}

/// Answers what never becomes an exchange, and counts it.
async fn reject(parts: &Parts, stream: &mut Stream, reason: &'static str, refusal: &Refusal) {
    parts.metrics.rejected(reason);
    let (answer, _) = answer::raw(refusal, Uuid::now_v7(), &Raw { keeps_open: false, has_body: true });
    // The client may be gone; there is nothing to do about it.
    let _ = timeout(Duration::from_secs(1), stream.write_all(&answer)).await;
    let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
}

/// The streams of one HTTP/2 connection.
struct H2Streams {
    entrance: Arc<Entrance>,
    connection: Arc<Connection>,
    active: AtomicUsize,
}

/// A stream that is being answered, as long as this lives.
struct Active<'a>(&'a AtomicUsize);

impl<'a> Active<'a> {
    fn new(streams: &'a AtomicUsize) -> Self {
        streams.fetch_add(1, Ordering::AcqRel);
        Self(streams)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[async_trait]
impl HttpServerApp for H2Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let _busy = self.connection.busy();
        let _active = Active::new(&self.active);
        let request = self.entrance.proxy.process_new_http(session, shutdown);
        let current = Current::Read { connection: Arc::clone(&self.connection), is_counted: false };
        let mut alarm = Alarm::default();
        let (reused, became_exchange) = with_current(current, with_deadline(&mut alarm, request)).await;
        if !became_exchange {
            self.entrance.parts.metrics.rejected("malformed");
        }
        reused
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(default_h2_options())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.entrance.parts.http2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, end: Option<usize>) {
        for seen in 0..head.len() {
            if end_of_head(&head.as_bytes()[..seen], 0).is_none() {
                assert_eq!(end_of_head(head.as_bytes(), seen), end, "{head:?} after {seen}");
            }
        }
    }

    #[test]
    fn a_header_ends_with_an_empty_line() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(27));
        check("POST / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n", Some(28));
        check("GET / HTTP/1.1\nHost: a\n\n", Some(24));
        check("GET / HTTP/1.1\nHost: a\n\r\n", Some(25));
        check("GET / HTTP/1.1\r\nHost: a\r\n", None);
    }

    #[test]
    fn empty_lines_before_a_request_are_no_header() {
        for (sent, left) in [("\r\n\r\nGET", "GET"), ("\n\n", ""), ("\r\n\r", "\r"), ("\rGET", "\rGET"), ("", "")] {
            let mut head = BytesMut::from(sent);
            skip_empty_lines(&mut head);
            assert_eq!(head, left.as_bytes(), "{sent:?}");
        }
    }
}
