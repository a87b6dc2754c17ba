//! Idle connections, plain or behind TLS 1.3: opened one after another, one request on each, then left alone.
//! They come from several addresses of loopback, as clients do: the gateway bounds the connections of one address.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ProtocolVersion, StreamOwned};
use tokio::runtime::{Builder, Runtime};

use super::configs::PATH;
use super::stream::{ask, with_deadlines};
use crate::http::Answer;
use crate::load::idle::{allowed, connect, source};
use crate::upstream::BODY_BYTES;

/// One in so many is asked again at the end.
const ASKED_AGAIN: usize = 100;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Open connections, each with one request behind it; dropping them closes them.
pub struct Idle {
    streams: Vec<Stream>,
    request: String,
}

/// Raises this process's limit of open files, which the gateway inherits; says so where that is not enough for so many connections.
pub fn check_open_files(connections: u32) -> Result<(), Box<dyn Error>> {
    let allowed = allowed(connections)?;
    if allowed < connections {
        return Err(format!(
            "the limit of open files allows {allowed} connections: raise the hard limit (`ulimit -Hn` as root), \
             or ask for {allowed} with --connections"
        )
        .into());
    }
    Ok(())
}

impl Idle {
    /// Opens the connections; behind TLS where there is a client for it.
    pub fn open(gateway: SocketAddr, count: u32, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Box<dyn Error>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: {gateway}\r\n\r\n");
        let mut streams = Vec::with_capacity(count as usize);
        for number in 0..count {
            let opened = open(&runtime, gateway, number, tls).and_then(|mut stream| {
                stream.ask(&request)?;
                Ok(stream)
            });
            streams.push(opened.map_err(|error| format!("connection {number}: {error}"))?);
        }
        Ok(Self { streams, request })
    }

    /// Whether they are open still: some of them are asked once more.
    pub fn ask_again(&mut self) -> Result<(), Box<dyn Error>> {
        for (number, stream) in self.streams.iter_mut().enumerate().step_by(ASKED_AGAIN) {
            stream.ask(&self.request).map_err(|error| format!("connection {number}, asked again: {error}"))?;
        }
        Ok(())
    }
}

impl Stream {
    fn ask(&mut self, request: &str) -> io::Result<()> {
        match self {
            Self::Plain(stream) => whole(&ask(stream, request.as_bytes())?),
            Self::Tls(stream) => {
                whole(&ask(&mut **stream, request.as_bytes())?)?;
                match stream.conn.protocol_version() {
                    Some(ProtocolVersion::TLSv1_3) => Ok(()),
                    other => Err(io::Error::other(format!("expected TLS 1.3, got {other:?}"))),
                }
            }
        }
    }
}

fn open(
    runtime: &Runtime,
    gateway: SocketAddr,
    number: u32,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Stream, Box<dyn Error>> {
    let stream = runtime.block_on(connect(gateway, source(number)))?.into_std()?;
    stream.set_nonblocking(false)?;
    let stream = with_deadlines(stream)?;
    let Some(client) = tls else { return Ok(Stream::Plain(stream)) };
    // The handshake happens with the first request.
    let connection = ClientConnection::new(Arc::clone(client), "localhost".try_into()?)?;
    Ok(Stream::Tls(Box::new(StreamOwned::new(connection, stream))))
}

fn whole(answer: &Answer) -> io::Result<()> {
    if answer.status == 200 && answer.body.len() == BODY_BYTES && answer.header("connection") != "close" {
        return Ok(());
    }
    Err(io::Error::other(format!("expected 200, {BODY_BYTES} bytes and an open connection, got {}", answer.brief())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_closes_the_connection_or_is_another_is_an_error() {
        let mut answer = Answer { status: 200, body: vec![b'x'; BODY_BYTES], ..Answer::default() };
        assert!(whole(&answer).is_ok());
        answer.headers.insert("connection".to_owned(), "close".to_owned());
        assert!(whole(&answer).is_err());
        assert!(whole(&Answer { status: 200, ..Answer::default() }).is_err());
        assert!(whole(&Answer { status: 502, body: vec![b'x'; BODY_BYTES], ..Answer::default() }).is_err());
    }
}
