//! Reads the header of a plain request: a GET over HTTP/1.1 that is over with its header, whose connection goes on, and that asks
//! for nothing but an answer: no upgrade, no condition, no range.
//! Of such a request Pingora reads the same, with the same parser. Whatever else comes, and all that has to be refused, is left to Pingora.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue, Method, Version};
use pingora_http::RequestHeader;

/// A request with more fields is left to Pingora.
const FIELDS_MAX: usize = 64;

/// Fields that ask for more than an answer, or say that more comes than a header.
const NOT_PLAIN: [HeaderName; 12] = [
    CONTENT_LENGTH,
    EXPECT,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether it is worth reading: most of what is not plain can be told by its first bytes.
pub(super) fn begins_plain(head: &[u8]) -> bool {
    head.starts_with(b"GET /")
}

/// The header of a plain request, which is all of `head`; none where it is not one, or where its host and target are not wanted: that is asked
/// before anything is made of it.
pub(super) fn read(head: &Bytes, is_wanted: impl FnOnce(&[u8], &[u8]) -> bool) -> Option<RequestHeader> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let httparse::Status::Complete(end) = parsed.parse_with_uninit_headers(head, &mut fields).ok()? else {
        return None;
    };
    if end != head.len() || parsed.method? != "GET" || parsed.version? != 1 {
        return None;
    }
    let target = parsed.path.filter(|target| target.starts_with('/'))?.as_bytes();
    let host = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(HOST.as_str()))?;
    if !is_wanted(host.value, target) {
        return None;
    }
    let mut request = RequestHeader::build_no_case(Method::GET, target, Some(parsed.headers.len())).ok()?;
    request.set_version(Version::HTTP_11);
    for field in parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let goes_on = name != CONNECTION || field.value.eq_ignore_ascii_case(b"keep-alive");
        // Pingora refuses a host with a user, and two hosts.
        let is_odd_host = name == HOST && (request.headers.contains_key(HOST) || field.value.contains(&b'@'));
        if NOT_PLAIN.contains(&name) || !goes_on || is_odd_host {
            return None;
        }
        // The bytes of the header itself, as a part of which they were found.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
        request.append_header(name, value).ok()?;
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(head: &str) -> Option<RequestHeader> {
        read(&Bytes::copy_from_slice(head.as_bytes()), |_, _| true)
    }

    #[test]
    fn a_plain_request_is_read_as_it_is() {
        let request = read_text("GET /a%20b?c=d HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\nx-a:  2 \r\n\r\n").unwrap();
        assert_eq!((request.raw_path(), request.version), (&b"/a%20b?c=d"[..], Version::HTTP_11));
        assert_eq!(request.headers[HOST], "h:1");
        assert_eq!(request.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(read_text("GET / HTTP/1.1\nHost: h\nConnection: Keep-Alive\n\n").is_some());
    }

    #[test]
    fn host_and_target_are_asked_for() {
        let head = Bytes::from_static(b"GET /a?b HTTP/1.1\r\nX: 1\r\nhOST: h:1\r\n\r\n");
        let is_it = |host: &[u8], target: &[u8]| (host, target) == (b"h:1", b"/a?b");
        assert!(read(&head, is_it).is_some() && read(&head, |host, target| !is_it(host, target)).is_none());
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        let check = |head: &str| assert!(read_text(head).is_none(), "{head:?}");
        for name in NOT_PLAIN {
            check(&format!("GET / HTTP/1.1\r\nHost: h\r\n{name}: 0\r\n\r\n"));
        }
        check("POST / HTTP/1.1\r\nHost: h\r\n\r\n");
        check("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        check("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
        check("GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n");
        check("GET / HTTP/1.1\r\n\r\n");
        check("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n");
        check("GET / HTTP/1.1\r\nHost: user@h\r\n\r\n");
        check("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        check("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, x-a\r\n\r\n");
        check("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\n");
        check("GET / HTTP/1.1\r\nHost: h\r\n");
        check(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX)));
    }
}
