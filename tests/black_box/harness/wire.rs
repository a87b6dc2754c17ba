//! A connection on which every byte is the test's own: for what no HTTP client would send, or would hide.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Answer, seconds};

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A raw connection.
pub struct Wire {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// How the body of an answer ends.
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Wire {
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub async fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Over any stream, such as TLS.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the gateway takes bytes");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// `GET path` with a Host and these lines, and the answer to it.
    pub async fn get(&mut self, path: &str, lines: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: gateway.example\r\n{lines}\r\n")).await;
        self.answer().await
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next answer, interim ones included.
    pub async fn answer(&mut self) -> Answer {
        self.try_answer("GET").await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The next answer, where a HEAD request was sent.
    pub async fn answer_to_head(&mut self) -> Answer {
        self.try_answer("HEAD").await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The next answer, or why there is none.
    pub async fn try_answer(&mut self, method: &str) -> std::io::Result<Answer> {
        timeout(seconds(40), self.read_answer(method)).await.map_err(std::io::Error::other)?
    }

    async fn read_answer(&mut self, method: &str) -> std::io::Result<Answer> {
        let (mut answer, framing) = loop {
            if let Some((answer, length)) = parse_head(&self.buffer) {
                self.buffer.drain(..length);
                let framing = framing(method, &answer);
                break (answer, framing);
            }
            self.more().await?;
        };
        match framing {
            Framing::Length(length) => {
                while self.buffer.len() < length {
                    self.more().await?;
                }
                answer.body = self.buffer.drain(..length).collect();
            }
            Framing::UntilClose => {
                while self.more().await.is_ok() {}
                answer.body = std::mem::take(&mut self.buffer);
            }
            Framing::Chunked => answer.body = self.chunks().await?,
        }
        Ok(answer)
    }

    async fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match find(&self.buffer, b"\r\n") {
                    Some(end) => break end,
                    None => self.more().await?,
                }
            };
            let size = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| std::io::Error::other(format!("`{size}` is no chunk size")))?;
            while self.buffer.len() < end + 2 + size + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.buffer[end + 2..end + 2 + size]);
            self.buffer.drain(..end + 2 + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn more(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk).await? {
            0 => Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                format!("closed after `{}`", String::from_utf8_lossy(&self.buffer)),
            )),
            count => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    /// Exactly so many bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            timeout(seconds(20), self.more()).await.expect("bytes within 20 s").expect("bytes");
        }
        self.buffer.drain(..count).collect()
    }

    /// Puts bytes back that were taken, to be read again.
    pub fn give_back(&mut self, bytes: &[u8]) {
        self.buffer.splice(0..0, bytes.iter().copied());
    }

    /// Everything until the other side closes; fails when it does not within this time.
    pub async fn rest(&mut self, within: Duration) -> String {
        let reading = async { while self.more().await.is_ok() {} };
        timeout(within, reading).await.unwrap_or_else(|_| panic!("the connection is open after {within:?}"));
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Whether the other side closes within this time; bytes it sends before are kept.
    pub async fn closes_within(&mut self, within: Duration) -> bool {
        timeout(within, async { while self.more().await.is_ok() {} }).await.is_ok()
    }
}

fn parse_head(buffer: &[u8]) -> Option<(Answer, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(buffer).expect("an HTTP answer") else { return None };
    let mut map = HeaderMap::new();
    for header in parsed.headers.iter() {
        let name: HeaderName = header.name.parse().expect("a header name");
        map.append(name, HeaderValue::from_bytes(header.value).expect("a header value"));
    }
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    Some((Answer { status: parsed.code?, version, headers: map, body: Vec::new() }, length))
}

fn framing(method: &str, answer: &Answer) -> Framing {
    if method == "HEAD" || answer.status < 200 || answer.status == 204 || answer.status == 304 {
        return Framing::Length(0);
    }
    if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    match answer.header("content-length") {
        Some(length) => Framing::Length(length.parse().expect("a length")),
        None => Framing::UntilClose,
    }
}

/// Where the pattern begins.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
