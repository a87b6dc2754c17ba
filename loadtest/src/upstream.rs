//! The upstream of a measurement: the cheapest server that speaks HTTP/1.1 keep-alive.
//! It answers GET with the same 206 bytes of JSON, `/large` and `/items?1m` with 1 MiB, and `/items?8k` with 8 KiB; `/requests`, `/watch` and `/watched` are about itself.
//! Not a web server: request bodies and pipelining in pieces are none of its business.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::http::only_loopback;
use crate::pace::Pace;

/// Bytes of the body that every request is answered with.
pub const BODY_BYTES: usize = 206;

/// Answered with [`LARGE_BYTES`] bytes.
pub const LARGE_PATH: &str = "/large";
pub const LARGE_BYTES: usize = 1 << 20;

/// The same as [`LARGE_PATH`], and the first [`MEDIUM_BYTES`] of it, where only `/items` is routed.
pub const LARGE_ITEM_PATH: &str = "/items?1m";
pub const MEDIUM_ITEM_PATH: &str = "/items?8k";
pub const MEDIUM_BYTES: usize = 8 << 10;

/// Asked for the number of requests so far; not counted itself.
pub const REQUESTS_PATH: &str = "/requests";

/// From now on the header of the next request is kept, for [`WATCHED_PATH`]. Neither is counted.
pub const WATCH_PATH: &str = "/watch";
pub const WATCHED_PATH: &str = "/watched";

const HEAD_BYTES_MAX: usize = 16 << 10;

struct Upstream {
    small: Vec<u8>,
    medium: Vec<u8>,
    large: Vec<u8>,
    requests: AtomicU64,
    is_watching: AtomicBool,
    watched: Mutex<Vec<u8>>,
    /// How long it works on what is counted; no time where there is none.
    pace: Option<Pace>,
}

pub fn run(listen: SocketAddr, pace: Option<Pace>) -> io::Result<()> {
    let listener = TcpListener::bind(only_loopback(listen)?)?;
    let upstream = Arc::new(Upstream {
        small: answer(&body_of("/")),
        medium: answer(&body_of(MEDIUM_ITEM_PATH)),
        large: answer(&body_of(LARGE_PATH)),
        requests: AtomicU64::new(0),
        is_watching: AtomicBool::new(false),
        watched: Mutex::new(Vec::new()),
        pace,
    });
    loop {
        let (stream, _) = listener.accept()?;
        let upstream = Arc::clone(&upstream);
        // A connection that breaks ends its thread; the next one is none the wiser.
        thread::Builder::new().stack_size(128 << 10).spawn(move || upstream.serve(stream))?;
    }
}

/// A JSON document of exactly [`BODY_BYTES`].
pub fn body() -> String {
    let open = r#"{"id":1,"name":"item","filler":""#;
    let close = r#""}"#;
    format!("{open}{}{close}", "x".repeat(BODY_BYTES - open.len() - close.len()))
}

/// [`LARGE_BYTES`] bytes that do not repeat every few: a piece that is lost or sent twice shows.
pub fn large_body() -> Vec<u8> {
    (0..LARGE_BYTES).map(|at| b'a' + ((at ^ (at >> 8) ^ (at >> 15)) % 26) as u8).collect()
}

/// What GET of a path is answered with.
pub fn body_of(path: &str) -> Vec<u8> {
    match path {
        LARGE_PATH | LARGE_ITEM_PATH => large_body(),
        MEDIUM_ITEM_PATH => large_body()[..MEDIUM_BYTES].to_vec(),
        _ => body().into_bytes(),
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

impl Upstream {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
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
                self.one(&mut stream, &buffer[..end])?;
                buffer.copy_within(end + 4..filled, 0);
                filled -= end + 4;
            }
        }
    }

    fn one(&self, stream: &mut TcpStream, head: &[u8]) -> io::Result<()> {
        let is_for = |path: &str| {
            head.strip_prefix(b"GET ")
                .and_then(|rest| rest.strip_prefix(path.as_bytes()))
                .is_some_and(|rest| rest.starts_with(b" "))
        };
        if is_for(REQUESTS_PATH) {
            return stream.write_all(&answer(self.requests.load(Ordering::Relaxed).to_string().as_bytes()));
        }
        if is_for(WATCHED_PATH) {
            return stream.write_all(&answer(&self.watched.lock().unwrap_or_else(PoisonError::into_inner)));
        }
        if is_for(WATCH_PATH) {
            self.watched.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.is_watching.store(true, Ordering::Relaxed);
            return stream.write_all(&answer(b""));
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.is_watching.load(Ordering::Relaxed) && self.is_watching.swap(false, Ordering::Relaxed) {
            *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = head.to_vec();
        }
        if let Some(pace) = &self.pace {
            pace.work();
        }
        stream.write_all(if is_for(LARGE_PATH) || is_for(LARGE_ITEM_PATH) {
            &self.large
        } else if is_for(MEDIUM_ITEM_PATH) {
            &self.medium
        } else {
            &self.small
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::get;

    #[test]
    fn the_bodies_have_the_sizes_that_figures_are_quoted_for() {
        assert_eq!(body().len(), BODY_BYTES);
        assert!(serde_json::from_str::<serde_json::Value>(&body()).is_ok());
        assert_eq!(large_body().len(), LARGE_BYTES);
    }

    #[test]
    fn requests_are_counted_and_the_watched_one_is_kept() {
        let address = crate::programs::free_address().unwrap();
        thread::spawn(move || run(address, None));
        while TcpStream::connect(address).is_err() {
            thread::yield_now();
        }
        let ask = |path: &str| get(address, path, &[("X-A", "b")], None).unwrap();
        ask(WATCH_PATH);
        assert_eq!(ask("/items").text(), body());
        assert_eq!(ask(LARGE_PATH).body, large_body());
        assert_eq!(ask(LARGE_ITEM_PATH).body, large_body());
        assert_eq!(ask(MEDIUM_ITEM_PATH).body, large_body()[..8192]);
        assert_eq!(ask(REQUESTS_PATH).text(), "4");
        let watched = ask(WATCHED_PATH).text();
        assert!(watched.starts_with("GET /items ") && watched.contains("X-A: b"), "{watched}");
    }

    #[test]
    fn it_listens_on_loopback_only() {
        assert!(run("0.0.0.0:0".parse().unwrap(), None).is_err());
    }
}
