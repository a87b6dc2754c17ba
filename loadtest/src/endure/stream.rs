//! Requests on a stream that stays open, one after another. Nothing is sent ahead, and no buffer is kept between two requests,
//! so that 10,000 idle streams cost their sockets only. How an answer is read is `crate::http`'s.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::http::{Answer, only_loopback, parse};

/// For a gateway that has 10,000 other things to do.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A connection that does not wait for ever.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    with_deadlines(TcpStream::connect_timeout(&only_loopback(address)?, ANSWER_MAX)?)
}

pub fn with_deadlines(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// One request without a body on a connection of its own; `lines` are header lines, each ended by CRLF.
pub fn ask_once(address: SocketAddr, method: &str, path: &str, lines: &str) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}{lines}\r\n");
    ask(&mut stream, request.as_bytes())
}

/// Sends a request and reads its answer.
pub fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Answer> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut bytes = Vec::with_capacity(2 << 10);
    let mut piece = [0_u8; 16 << 10];
    loop {
        let read = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..read]);
        match parse(&bytes, false) {
            Some(answer) => return Ok(answer),
            None if read == 0 => {
                return Err(io::Error::other(format!("closed after {:?}", String::from_utf8_lossy(&bytes))));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it is made of in small pieces, and takes everything.
    struct Pieces(Vec<u8>);

    impl Read for Pieces {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(7).min(room.len());
            room[..length].copy_from_slice(&self.0[..length]);
            self.0.drain(..length);
            Ok(length)
        }
    }

    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_may_come_in_pieces() {
        let mut stream = Pieces(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot there".to_vec());
        let answer = ask(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (404, "not there"));
    }

    #[test]
    fn half_an_answer_is_an_error() {
        let mut stream = Pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot".to_vec());
        assert!(ask(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap_err().to_string().contains("closed after"));
    }
}
