//! The upstream of a measurement: the cheapest server that speaks HTTP/1.1 keep-alive.
//! It answers every GET with the same 206 bytes of JSON and looks at nothing but the path `/requests`.
//! Not a web server: bodies and pipelining in pieces are none of its business.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Bytes of the body that every request is answered with.
pub const BODY_BYTES: usize = 206;

/// Asked for the number of requests so far; not counted itself.
pub const REQUESTS_PATH: &str = "/requests";

const HEAD_BYTES_MAX: usize = 16 << 10;

pub fn run(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    let requests = Arc::new(AtomicU64::new(0));
    let answer = Arc::new(answer(&body()));
    loop {
        let (stream, _) = listener.accept()?;
        let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
        // A connection that breaks ends its thread; the next one is none the wiser.
        thread::Builder::new().stack_size(128 << 10).spawn(move || serve(stream, &requests, &answer))?;
    }
}

/// A JSON document of exactly [`BODY_BYTES`].
fn body() -> String {
    let open = r#"{"id":1,"name":"item","filler":""#;
    let close = r#""}"#;
    format!("{open}{}{close}", "x".repeat(BODY_BYTES - open.len() - close.len()))
}

fn answer(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn serve(mut stream: TcpStream, requests: &AtomicU64, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0_u8; HEAD_BYTES_MAX];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        while let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
            if buffer.starts_with(b"GET /requests ") {
                stream.write_all(&self::answer(&requests.load(Ordering::Relaxed).to_string()))?;
            } else {
                requests.fetch_add(1, Ordering::Relaxed);
                stream.write_all(answer)?;
            }
            buffer.copy_within(end + 4..filled, 0);
            filled -= end + 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_size_that_figures_are_quoted_for() {
        assert_eq!(body().len(), BODY_BYTES);
        assert!(serde_json::from_str::<serde_json::Value>(&body()).is_ok());
    }
}
