//! The header of an HTTP/1.1 answer as bytes (RFC 9112 section 2.1), for what is answered before Pingora is entered.

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

    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.push([name.as_bytes(), b": ", value, b"\r\n"]);
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
