//! An instance that speaks HTTP/2 and nothing else, plain (h2c) or over TLS, and keeps to a script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::free_address;

/// Answers by the number of the request, from 1, and its path.
type Script = Box<dyn Fn(usize, &str) -> Http2Reply + Send + Sync>;

/// What the script answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Reply {
    /// 200, the path as body, and the trailer `grpc-status: 0`.
    Answer,
    /// 200 and a long text, without its length; the end is told after it, or by a trailer that nobody announced.
    Text { trailer: bool },
    /// The stream is refused: nothing was done with the request.
    Refuse,
    /// The stream is reset in the middle of the body.
    Break,
    /// Nothing, for ever.
    Hang,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Http2Seen {
    pub method: Method,
    pub uri: http::Uri,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A scripted instance.
pub struct Http2Backend {
    pub address: SocketAddr,
    play: Arc<Play>,
}

struct Play {
    script: Script,
    seen: Mutex<Vec<Http2Seen>>,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Http2Backend {
    /// An instance that always answers.
    pub async fn start(tls: Option<TlsAcceptor>) -> Self {
        Self::scripted(tls, |_, _| Http2Reply::Answer).await
    }

    /// An instance that answers by the number of the request, from 1, and its path.
    pub async fn scripted(
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize, &str) -> Http2Reply + Send + Sync + 'static,
    ) -> Self {
        let address = free_address();
        let listener = TcpListener::bind(address).await.expect("a port");
        let play = Arc::new(Play {
            script: Box::new(script),
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let playing = Arc::clone(&play);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                playing.connections.fetch_add(1, Ordering::Relaxed);
                let (play, tls) = (Arc::clone(&playing), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, play).await;
                            }
                        }
                        None => serve(stream, play).await,
                    }
                });
            }
        });
        Self { address, play }
    }

    pub fn seen(&self) -> Vec<Http2Seen> {
        self.play.seen.lock().expect("seen").clone()
    }

    pub fn connections(&self) -> usize {
        self.play.connections.load(Ordering::Relaxed)
    }
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, play: Arc<Play>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, Arc::clone(&play)));
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>, play: Arc<Play>) {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(piece)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    let path = head.uri.path().to_owned();
    play.seen.lock().expect("seen").push(Http2Seen { method: head.method, uri: head.uri, headers: head.headers, body });
    let number = play.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let reply = (play.script)(number, &path);
    match reply {
        Http2Reply::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Http2Reply::Hang => std::future::pending().await,
        Http2Reply::Answer | Http2Reply::Break | Http2Reply::Text { .. } => {
            let text = Response::builder().header("content-type", "text/plain").body(()).expect("a header");
            let is_text = matches!(reply, Http2Reply::Text { .. });
            let head = if is_text { text } else { Response::new(()) };
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let _ = stream.send_data(if is_text { path.repeat(500).into() } else { path.into() }, false);
            if reply == Http2Reply::Break {
                // The piece of the body goes out before the reset.
                tokio::time::sleep(super::milliseconds(200)).await;
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return;
            }
            if reply == (Http2Reply::Text { trailer: false }) {
                tokio::time::sleep(super::milliseconds(50)).await;
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))]);
            let _ = stream.send_trailers(trailers);
        }
    }
}
