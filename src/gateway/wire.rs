//! The header of an HTTP/1.1 answer as bytes (RFC 9112 section 2.1), for what is answered before Pingora is entered.
//! Not here: which fields there are (`hit.rs`, `answer.rs`).

use bytes::BytesMut;
use http::StatusCode;
use pingora_http::ResponseHeader;

/// Room for the usual header.
const HEADER_BYTES: usize = 1_024;

/// A header that is being written.
pub(super) struct Wire(BytesMut);

impl Wire {
    pub(super) fn begin(status: StatusCode, reason: &str) -> Self {
        let mut wire = Self(BytesMut::with_capacity(HEADER_BYTES));
        wire.push([b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
        wire
    }

    /// A field, its name (in lower case) spelled as Pingora spells it.
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.push([spelled(name).as_bytes(), b": ", value, b"\r\n"]);
    }

    /// The whole header, with the empty line behind it.
    pub(super) fn end(mut self) -> BytesMut {
        self.push([b"\r\n"]);
        self.0
    }

    /// A header that is complete.
    pub(super) fn of(header: &ResponseHeader) -> BytesMut {
        let mut wire = Self::begin(header.status, header.get_reason_phrase().unwrap_or_default());
        header.header_to_h1_wire(&mut wire.0);
        wire.end()
    }

    fn push<const N: usize>(&mut self, parts: [&[u8]; N]) {
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
    }
}

fn spelled(name: &str) -> &str {
    match name {
        "accept-ranges" => "Accept-Ranges",
        "age" => "Age",
        "cache-control" => "Cache-Control",
        "connection" => "Connection",
        "content-encoding" => "Content-Encoding",
        "content-length" => "Content-Length",
        "content-type" => "Content-Type",
        "date" => "Date",
        "host" => "Host",
        "server" => "Server",
        "set-cookie" => "Set-Cookie",
        "transfer-encoding" => "Transfer-Encoding",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_pingora_spells_them() {
        let names = "accept-ranges age allow cache-control cache-status cdn-cache-control connection content-disposition \
             content-encoding content-language content-length content-location content-range content-type date etag expires host \
             last-modified link location ratelimit retry-after server set-cookie strict-transport-security surrogate-control \
             trailer transfer-encoding vary via www-authenticate x-request-id";
        let mut header = ResponseHeader::build_no_case(200, None).unwrap();
        let mut wire = Wire::begin(header.status, "OK");
        for name in names.split_whitespace() {
            header.append_header(name, "1").unwrap();
        }
        header.headers.iter().for_each(|(name, value)| wire.field(name.as_str(), value.as_bytes()));
        assert_eq!(header.headers.len(), 33);
        assert_eq!(wire.end(), Wire::of(&header));
    }
}
