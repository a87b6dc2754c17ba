//! An instance that keeps to a script, byte by byte: what it received is recorded as it came,
//! and what it answers may be anything, a broken answer included. HTTP/1.1 only.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::task::AbortHandle;

use super::free_address;
use super::wire::find;

/// Requests that are remembered.
const SEEN_MAX: usize = 10_000;

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A scripted instance.
pub struct Backend {
    pub address: SocketAddr,
    play: Arc<Play>,
}

struct Play {
    script: RwLock<Script>,
    seen: Mutex<VecDeque<Seen>>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    unreadable: Mutex<Vec<String>>,
    running: Mutex<Vec<AbortHandle>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// Names as they were sent, in their order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which connection it came on, from 1.
    pub connection: usize,
    /// When its header had arrived.
    pub at: Instant,
}

/// What a script answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A well-formed answer.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// These bytes.
    Raw(Vec<u8>),
    /// These bytes, then the end of the connection.
    RawThenClose(Vec<u8>),
    /// These bytes, then a reset, when they have had the time to arrive.
    RawThenReset(Vec<u8>),
    /// These bytes one after the other, each after a pause.
    Pieces(Vec<(Duration, Vec<u8>)>),
    /// The reply, after a pause.
    After(Duration, Box<Reply>),
    /// 101, and every byte sent back.
    Tunnel,
    /// Nothing, for ever.
    Hang,
    /// The connection is reset.
    Reset,
}

impl Reply {
    /// 200 with this body.
    pub fn ok(body: &str) -> Self {
        Self::status(200, body)
    }

    /// This status with this body.
    pub fn status(status: u16, body: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// With this header; only for well-formed answers.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }

    /// These bytes.
    pub fn raw(bytes: &str) -> Self {
        Self::Raw(bytes.into())
    }

    /// This reply after a pause.
    pub fn after(self, pause: Duration) -> Self {
        Self::After(pause, Box::new(self))
    }
}

impl Seen {
    /// The header's value; fails when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "several {name}: {values:?}");
        values.first().copied()
    }

    /// Every value of the header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(header, _): &&(String, String)| header.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }
}

impl Backend {
    /// An instance that answers 200 and a word.
    pub async fn start() -> Self {
        Self::named("one").await
    }

    /// A Unix socket through which it is reached, until the task is ended.
    pub fn through_unix(&self, socket: &Path) -> AbortHandle {
        let (listener, address) = (UnixListener::bind(socket).expect("a socket"), self.address);
        let relaying = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(address).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        relaying.abort_handle()
    }

    /// An instance that answers 200, its name in `X-Instance`.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::scripted(move |seen| Reply::ok(&seen.target).with("X-Instance", &name)).await
    }

    /// An instance with a script.
    pub async fn scripted(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::at(free_address(), script).await
    }

    /// An instance with a script, at this address.
    pub async fn at(address: SocketAddr, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let play = Play {
            script: RwLock::new(Arc::new(script)),
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            unreadable: Mutex::default(),
            running: Mutex::default(),
        };
        let backend = Self { address, play: Arc::new(play) };
        backend.listen();
        backend
    }

    /// Changes the script.
    pub fn plays(&self, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *self.play.script.write().expect("script") = Arc::new(script);
    }

    /// Listens again after [`stop`](Self::stop).
    pub fn listen(&self) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("reuse of the address");
        socket.bind(self.address).expect("the backend's address");
        let listener = socket.listen(4096).expect("the backend listens");
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.play)));
        self.play.runs(accepting.abort_handle());
    }

    /// Closes the listener and every connection.
    pub fn stop(&self) {
        for task in self.play.running.lock().expect("running").drain(..) {
            task.abort();
        }
    }

    /// Requests whose header arrived.
    pub fn requests(&self) -> usize {
        self.play.requests.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.play.connections.load(Ordering::Relaxed)
    }

    /// The last complete requests, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.play.seen.lock().expect("seen").iter().cloned().collect()
    }

    /// The last complete request.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request reached the backend")
    }

    /// Bytes that were no HTTP request.
    pub fn unreadable(&self) -> Vec<String> {
        self.play.unreadable.lock().expect("unreadable").clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Play {
    fn runs(&self, task: AbortHandle) {
        let mut running = self.running.lock().expect("running");
        running.retain(|task| !task.is_finished());
        running.push(task);
    }
}

async fn accept(listener: TcpListener, play: Arc<Play>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let number = play.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let serving = tokio::spawn(serve(stream, number, Arc::clone(&play)));
        play.runs(serving.abort_handle());
    }
}

async fn serve(mut stream: TcpStream, number: usize, play: Arc<Play>) {
    let mut buffer = Vec::new();
    loop {
        let mut seen = match read_head(&mut stream, &mut buffer).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(bytes) => {
                play.unreadable.lock().expect("unreadable").push(bytes);
                return;
            }
        };
        play.requests.fetch_add(1, Ordering::Relaxed);
        seen.connection = number;
        if seen.header("expect").is_some() && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
            return;
        }
        if read_body(&mut stream, &mut buffer, &mut seen).await.is_none() {
            return;
        }
        let script = Arc::clone(&play.script.read().expect("script"));
        let reply = script(&seen);
        let method = seen.method.clone();
        {
            let mut all = play.seen.lock().expect("seen");
            if all.len() == SEEN_MAX {
                all.pop_front();
            }
            all.push_back(seen);
        }
        if !answer(&mut stream, reply, &method).await {
            return;
        }
    }
}

/// The next request, none at the end of the connection, or bytes that are no request.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Seen>, String> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let seen = Seen {
                    method: parsed.method.unwrap_or_default().to_owned(),
                    target: parsed.path.unwrap_or_default().to_owned(),
                    headers: parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
                    body: Vec::new(),
                    connection: 0,
                    at: Instant::now(),
                };
                buffer.drain(..length);
                return Ok(Some(seen));
            }
            Ok(httparse::Status::Partial) => {}
            Err(_) => return Err(String::from_utf8_lossy(buffer).into_owned()),
        }
        if more(stream, buffer).await.is_none() {
            return if buffer.is_empty() { Ok(None) } else { Err(String::from_utf8_lossy(buffer).into_owned()) };
        }
    }
}

async fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, seen: &mut Seen) -> Option<()> {
    if seen.header("transfer-encoding").is_some() {
        return read_chunks(stream, buffer, seen).await;
    }
    let length = seen.header("content-length").map_or(0, |length| length.parse().expect("a length"));
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    seen.body = buffer.drain(..length).collect();
    Some(())
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>, seen: &mut Seen) -> Option<()> {
    loop {
        let Some(end) = find(buffer, b"\r\n") else {
            more(stream, buffer).await?;
            continue;
        };
        let size = usize::from_str_radix(std::str::from_utf8(&buffer[..end]).ok()?.trim(), 16).ok()?;
        if buffer.len() < end + 2 + size + 2 {
            more(stream, buffer).await?;
            continue;
        }
        seen.body.extend_from_slice(&buffer[end + 2..end + 2 + size]);
        buffer.drain(..end + 2 + size + 2);
        if size == 0 {
            return Some(());
        }
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

/// Answers; false ends the connection.
async fn answer(stream: &mut TcpStream, reply: Reply, method: &str) -> bool {
    match reply {
        Reply::Answer { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
            if status != 204 && status != 304 {
                head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            let mut bytes = head.into_bytes();
            if method != "HEAD" {
                bytes.extend_from_slice(&body);
            }
            stream.write_all(&bytes).await.is_ok()
        }
        Reply::Raw(bytes) => stream.write_all(&bytes).await.is_ok(),
        Reply::RawThenClose(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            false
        }
        Reply::RawThenReset(bytes) => {
            let _ = stream.write_all(&bytes).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = stream.set_zero_linger();
            false
        }
        Reply::Pieces(pieces) => {
            for (pause, bytes) in pieces {
                tokio::time::sleep(pause).await;
                if stream.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            true
        }
        Reply::After(pause, reply) => {
            tokio::time::sleep(pause).await;
            Box::pin(answer(stream, *reply, method)).await
        }
        Reply::Tunnel => {
            tunnel(stream).await;
            false
        }
        Reply::Hang => {
            // Ends when the gateway gives up.
            let mut ignored = [0; 1024];
            while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
            false
        }
        Reply::Reset => {
            let _ = stream.set_zero_linger();
            false
        }
    }
}

async fn tunnel(stream: &mut TcpStream) {
    // The accept value belongs to the key of RFC 6455's example, which the tests send.
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    if stream.write_all(switching.as_bytes()).await.is_err() {
        return;
    }
    let (mut reading, mut writing) = stream.split();
    let _ = tokio::io::copy(&mut reading, &mut writing).await;
}
