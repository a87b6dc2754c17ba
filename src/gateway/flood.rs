//! Floods over HTTP/1, turned away by the front: what the flood guard refuses is answered and recorded before Pingora is entered,
//! which costs half of what a refusal costs behind it.
//! Not here: the estimate (`policy::flood_guard`), and what `admit` asks the guard: HTTP/2, and clients behind trusted proxies.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use uuid::Uuid;

use super::Parts;
use super::admit::{CLIENT_REQUEST_ID_BYTES_MAX, PATH_BYTES_MAX, USER_AGENT_BYTES_MAX, text_of};
use super::answer::{self, DRAINED_BYTES_MAX, Raw};
use super::connection::Connection;
use super::exchange::{Exchange, Facts, Sent};
use crate::refusal::Refusal;

/// Fields that are read of a refused request; one with more is left to Pingora.
const FIELDS_MAX: usize = 64;

/// How long a refused client may take to accept its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of the connection of a refused request.
pub(super) enum TurnedAway {
    /// The next request may come.
    Open,
    /// Nothing more is read from it.
    Closed,
    /// Nothing was said: this is not a request that could be answered here.
    NotUnderstood,
}

/// What of a request decides how it is refused.
struct Asked {
    method: Method,
    path: Arc<str>,
    user_agent: Option<Box<str>>,
    client_request_id: Option<Box<str>>,
    protocol: &'static str,
    /// Whether the next request begins where this header ends.
    ends_with_header: bool,
}

/// Counts a request of this connection; none where its client is not the peer, or where there is no guard.
pub(super) fn ask(parts: &Parts, connection: &Connection) -> Option<Result<(), Refusal>> {
    let peer = connection.peer.ip();
    parts.live.with(|runtime| {
        let guard = runtime.flood_guard.as_ref().filter(|_| !runtime.trusted_proxies.contains(peer))?;
        Some(guard.admit(peer))
    })
}

/// Answers a refused request, whose header is the beginning of `head`, and leaves its record.
pub(super) async fn turn_away(
    parts: &Arc<Parts>,
    connection: &Arc<Connection>,
    stream: &mut Stream,
    head: &[u8],
    refusal: Refusal,
) -> TurnedAway {
    let Some(asked) = asked(head) else { return TurnedAway::NotUnderstood };
    let keeps_open = asked.ends_with_header && !parts.is_draining();
    let request_id = Uuid::now_v7();
    let raw = Raw { keeps_open, has_body: asked.method != Method::HEAD };
    let (answer, body_bytes) = answer::raw(&refusal, request_id, &raw);
    let mut exchange = Exchange::new(parts, Some(Arc::clone(connection)), true);
    exchange.facts = Facts {
        method: asked.method,
        protocol: asked.protocol,
        client_ip: connection.peer.ip(),
        request_id,
        path: asked.path,
        user_agent: asked.user_agent,
        client_request_id: asked.client_request_id,
        ..Facts::default()
    };
    let (status, reason) = (refusal.status().as_u16(), refusal.reason());
    exchange.refusal = Some(refusal);
    let written = timeout(WRITE_TIMEOUT, async {
        stream.write_all(&answer).await?;
        stream.flush().await
    });
    let is_written = matches!(written.await, Ok(Ok(())));
    let bytes_out = if is_written { body_bytes } else { 0 };
    exchange.record(&Sent { status: Some(status), bytes_in: 0, bytes_out }, reason);
    if is_written && keeps_open {
        return TurnedAway::Open;
    }
    // The client may be gone; there is nothing to do about it.
    let _ = timeout(WRITE_TIMEOUT, end(stream)).await;
    TurnedAway::Closed
}

/// Says that nothing more comes, and drops what still arrives: what is unread when a connection closes may cost the client its answer.
async fn end(stream: &mut Stream) -> std::io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(DRAINED_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
}

/// Reads the header of a request; none where Pingora has to say what is wrong with it.
fn asked(head: &[u8]) -> Option<Asked> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(end) = request.parse(head).ok()? else { return None };
    let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
    let path = request.path?.split('?').next().unwrap_or_default();
    let (protocol, is_persistent) = if request.version? == 1 { ("HTTP/1.1", true) } else { ("HTTP/1.0", false) };
    let field = |name: &str| request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    // With a body the connection ends, and with any other word about it than the usual: a refused flood is not worth reading on.
    let only = |name: &str, value: &[u8]| {
        let mut fields = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        fields.next().is_none_or(|field| field.value.eq_ignore_ascii_case(value)) && fields.next().is_none()
    };
    let may_go_on =
        only("connection", b"keep-alive") && only("content-length", b"0") && field("transfer-encoding").is_none();
    Some(Asked {
        method,
        path: Arc::from(&*text_of(path.as_bytes(), PATH_BYTES_MAX)),
        user_agent: field("user-agent").map(|field| text_of(field.value, USER_AGENT_BYTES_MAX)),
        client_request_id: field("x-request-id").map(|field| text_of(field.value, CLIENT_REQUEST_ID_BYTES_MAX)),
        protocol,
        ends_with_header: is_persistent && may_go_on && end == head.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, path: Option<&str>, ends_with_header: bool) {
        let asked = asked(head.as_bytes());
        assert_eq!(asked.as_ref().map(|asked| &*asked.path), path, "{head:?}");
        assert_eq!(asked.is_some_and(|asked| asked.ends_with_header), ends_with_header, "{head:?}");
    }

    #[test]
    fn only_what_ends_with_its_header_keeps_the_connection() {
        check("GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n", Some("/a"), true);
        check("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", Some("/a"), false);
        check("GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", Some("/a"), true);
        check("GET /a HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", Some("/a"), false);
        check("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", Some("/a"), true);
        check("POST /a HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\n", Some("/a"), false);
        check("POST /a HTTP/1.1\r\nContent-Length: 00\r\n\r\n", Some("/a"), false);
        check("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some("/a"), false);
        check("GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b", Some("/a"), false);
        check("GET /a HTTP/1.0\r\n\r\n", Some("/a"), false);
    }

    #[test]
    fn what_is_no_request_is_left_to_pingora() {
        check("GET /a HTTP/9.9\r\n\r\n", None, false);
        check("\u{1}\r\n\r\n", None, false);
        check(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1)), None, false);
    }
}
