//! One request and its answer, by hand and on a connection of its own: how a measurement checks that work is done.
//! Bodies end by their length, by their last chunk, or with the connection. Not a client for anything but these checks.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// An answer, read to its end.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// What TLS agreed on, e.g. `TLSv1_3`.
    pub tls: Option<String>,
}

impl Answer {
    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// For error messages: status, headers and the beginning of the body.
    pub fn brief(&self) -> String {
        let body: String = self.text().chars().take(80).collect();
        format!("{} {:?} {body:?} ({} bytes)", self.status, self.headers, self.body.len())
    }
}

/// Refuses everything but loopback: nothing here may ever load somebody else's machine.
pub fn only_loopback(address: SocketAddr) -> io::Result<SocketAddr> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    let message = format!("{address} is not on loopback; the load test talks to 127.0.0.0/8 and ::1 only");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

pub fn get(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(only_loopback(address)?)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    let (bytes, tls) = match tls {
        None => (exchange(&mut stream, &request)?, None),
        Some(config) => {
            let name = "localhost".try_into().map_err(io::Error::other)?;
            let client = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(client, stream);
            let bytes = exchange(&mut stream, &request)?;
            (bytes, stream.conn.protocol_version().map(|version| format!("{version:?}")))
        }
    };
    let answer = parse(&bytes, true).ok_or_else(|| {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        io::Error::other(format!("GET {path} at {address}: no whole answer, but {} bytes: {begin:?}", bytes.len()))
    })?;
    Ok(Answer { tls, ..answer })
}

fn exchange(stream: &mut (impl Read + Write), request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut piece = [0_u8; 64 << 10];
    // Whoever keeps the connection open is done when the body is complete.
    while parse(&bytes, false).is_none() {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            // A peer that leaves without TLS's own goodbye has still ended.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// The answer if it is whole; without a length it is whole when the connection has ended.
pub fn parse(bytes: &[u8], is_ended: bool) -> Option<Answer> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..head_length]).ok()?;
    let rest = &bytes[head_length + 4..];
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let body = if let Some(length) = headers.get("content-length") {
        rest.get(..length.parse().ok()?)?.to_vec()
    } else if headers.get("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        unchunk(rest)?
    } else if matches!(status, 204 | 304) {
        Vec::new()
    } else {
        is_ended.then(|| rest.to_vec())?
    };
    Some(Answer { status, headers, body, tls: None })
}

/// The body of all chunks, if the last one is there.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_length = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..line_length]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[line_length + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &str, is_ended: bool, expected: Option<(u16, &str)>) {
        let answer = parse(bytes.as_bytes(), is_ended);
        let seen = answer.as_ref().map(|answer| (answer.status, answer.text()));
        assert_eq!(seen, expected.map(|(status, body)| (status, body.to_owned())));
    }

    #[test]
    fn a_body_ends_by_its_length() {
        let text = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nno";
        check(text, false, Some((401, "no")));
        check(&text[..text.len() - 1], true, None);
        assert_eq!(parse(text.as_bytes(), false).unwrap().header("www-authenticate"), "Bearer");
    }

    #[test]
    fn a_body_ends_with_its_last_chunk() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        check(text, false, Some((200, "abcde")));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true, None);
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        check("HTTP/1.1 200 OK\r\n\r\nab", false, None);
        check("HTTP/1.1 200 OK\r\n\r\nab", true, Some((200, "ab")));
    }

    #[test]
    fn only_loopback_is_talked_to() {
        for address in ["10.0.0.1:80", "0.0.0.0:80", "[2001:db8::1]:80"] {
            let error = get(address.parse().unwrap(), "/", &[], None).unwrap_err();
            assert!(error.to_string().contains("is not on loopback"), "{error}");
        }
        assert!(only_loopback("127.9.9.9:80".parse().unwrap()).is_ok());
    }
}
