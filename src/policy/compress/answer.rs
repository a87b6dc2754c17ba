//! Which answers are compressed, and what that changes in their header; also in a 304 about one that was.
//! Not here: the body (`body.rs`).

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, IF_NONE_MATCH, TRAILER, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, StatusCode, Version};
use pingora_core::Result;
use pingora_http::ResponseHeader;

use super::body::CompressedBody;
use super::{Compress, forbids_transform, tags};
use crate::config::Coding;

/// Shorter bodies are sent as they are: they fit into one packet, and a coding may make them longer.
const BYTES_MIN: u64 = 1_024;

/// What is only true of the bytes as the instance sent them.
const OF_THE_BYTES: [HeaderName; 5] = [
    ACCEPT_RANGES,
    HeaderName::from_static("content-digest"), // RFC 9530
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),      // RFC 3230
    HeaderName::from_static("content-md5"), // RFC 2616 section 14.15
];

/// Media types that compress, beside `text/*` and those that end in one of [`SUFFIXES`].
const TYPES: [&str; 27] = [
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/json",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/json-seq",
    "application/graphql",
    "application/xml",
    "application/xml-dtd",
    "application/yaml",
    "application/x-yaml",
    "application/toml",
    "application/sql",
    "application/rtf",
    "application/wasm",
    "application/x-www-form-urlencoded",
    "application/vnd.ms-fontobject",
    "application/x-font-ttf",
    "font/ttf",
    "font/otf",
    "font/sfnt",
    "font/collection",
    "image/bmp",
    "image/x-icon",
    "image/vnd.microsoft.icon",
];

/// RFC 6839
const SUFFIXES: [&str; 4] = ["+json", "+xml", "+yaml", "+text"];

/// What the coding that a client accepts has to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Nothing: everybody gets it as it is.
    None,
    /// The instance has chosen, or would compress the whole of which this is a part.
    Instance,
    /// It is compressed for who accepts it.
    Compress,
}

impl Compress {
    /// Makes the final answer of an instance the one that is stored and sent, where `coding` was chosen: its header now, its
    /// body by what comes back; none where it stays as it is.
    ///
    /// # Errors
    /// Pingora's, when a header can't be set.
    pub fn begin(&self, coding: Option<Coding>, answer: &mut ResponseHeader) -> Result<Option<CompressedBody>> {
        let choice = judge(answer.status, &answer.headers);
        if choice != Choice::None {
            add_vary(answer)?;
        }
        let Some(coding) = coding.filter(|_| choice == Choice::Compress) else { return Ok(None) };
        let length = length(&answer.headers).flatten();
        let Some(body) = CompressedBody::begin(coding, length) else { return Ok(None) };
        answer.insert_header(CONTENT_ENCODING, HeaderValue::from_static(coding.token()))?;
        if answer.remove_header(&CONTENT_LENGTH).is_some() && answer.version != Version::HTTP_2 {
            // Its end is still told from a cut connection, which the cache wants to know.
            answer.insert_header(TRANSFER_ENCODING, "chunked")?;
        }
        for name in OF_THE_BYTES {
            answer.remove_header(&name);
        }
        if let Some(weak) = tags::weakened(&answer.headers) {
            answer.insert_header(ETAG, weak)?;
        }
        Ok(Some(body))
    }

    /// Makes a 304 of an instance one about the answer that it confirms: what is `stored`, or else what the client, who sent
    /// these `asked` headers and for whom `coding` was chosen, has. What was taken from that one is not brought back.
    ///
    /// # Errors
    /// Pingora's, when a header can't be set.
    pub fn confirm(
        &self,
        stored: Option<&HeaderMap>,
        coding: Option<Coding>,
        asked: &HeaderMap,
        answer: &mut ResponseHeader,
    ) -> Result<()> {
        let is_compressed = match stored {
            Some(stored) => stored.contains_key(CONTENT_ENCODING) && tags_fit(stored),
            // Who asks by date, and accepts a coding, may have what was compressed; a weak tag is true of either.
            None if coding.is_some() && !asked.contains_key(IF_NONE_MATCH) => true,
            None => tags::is_known_as_weak(asked, &answer.headers),
        };
        if !is_compressed {
            return Ok(());
        }
        for name in OF_THE_BYTES.iter().filter(|name| !stored.is_some_and(|stored| stored.contains_key(*name))) {
            answer.remove_header(name);
        }
        if let Some(weak) = tags::weakened(&answer.headers) {
            answer.insert_header(ETAG, weak)?;
        }
        add_vary(answer)
    }
}

/// Whether an encoded answer may have been encoded here: then it has no strong tag.
fn tags_fit(stored: &HeaderMap) -> bool {
    tags::is_weak(stored) || !stored.contains_key(ETAG)
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Choice {
    if status.is_informational() || [204, 205, 304].contains(&status.as_u16()) {
        return Choice::None;
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Choice::Instance;
    }
    if forbids_transform(headers) || !headers.get(CONTENT_TYPE).is_some_and(|kind| compresses(kind.as_bytes())) {
        return Choice::None;
    }
    if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(CONTENT_RANGE) {
        return Choice::Instance;
    }
    // After trailers nothing can be sent that the coder still holds.
    if headers.contains_key(TRAILER) || length(headers).is_some_and(|length| length.is_none_or(|it| it < BYTES_MIN)) {
        return Choice::None;
    }
    Choice::Compress
}

/// The length that is told; `Some(None)` where it can't be read.
fn length(headers: &HeaderMap) -> Option<Option<u64>> {
    let length = headers.get(CONTENT_LENGTH)?;
    Some(length.to_str().ok().and_then(|length| length.parse().ok()))
}

/// Whether bodies of this type (RFC 9110 section 8.3.1) get smaller. Streams that are read event by event are left alone.
fn compresses(kind: &[u8]) -> bool {
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let begins = |start: &str| kind.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start.as_bytes()));
    let ends = |end: &&str| {
        kind.len().checked_sub(end.len()).is_some_and(|at| kind[at..].eq_ignore_ascii_case(end.as_bytes()))
    };
    if begins("application/grpc") || begins("text/event-stream") {
        return false;
    }
    begins("text/") || SUFFIXES.iter().any(ends) || TYPES.iter().any(|name| kind.eq_ignore_ascii_case(name.as_bytes()))
}

/// Says that the answer depends on what the client accepts, once.
fn add_vary(answer: &mut ResponseHeader) -> Result<()> {
    let mut said: Vec<u8> = Vec::new();
    for line in answer.headers.get_all(VARY) {
        let mut names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if names.any(|name| name == b"*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str().as_bytes())) {
            return Ok(());
        }
        if !line.is_empty() {
            said.extend_from_slice(line.as_bytes());
            said.extend_from_slice(b", ");
        }
    }
    said.extend_from_slice(b"Accept-Encoding");
    answer.insert_header(VARY, said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Codings;

    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

    fn header(status: u16, lines: &[(&'static str, &str)]) -> ResponseHeader {
        let mut header = ResponseHeader::build(status, None).unwrap();
        for (name, value) in lines {
            header.append_header(*name, *value).unwrap();
        }
        header
    }

    fn compress() -> Compress {
        Compress::compile(&Codings(vec![Coding::Gzip])).unwrap()
    }

    #[track_caller]
    fn check(status: u16, lines: &[(&'static str, &str)], expected: Choice) {
        assert_eq!(judge(StatusCode::from_u16(status).unwrap(), &header(status, lines).headers), expected, "{lines:?}");
    }

    #[test]
    fn whole_answers_of_a_type_that_compresses_are_compressed() {
        check(200, &[JSON], Choice::Compress);
        check(404, &[JSON, ("content-length", "1024")], Choice::Compress);
        check(200, &[JSON, ("content-length", "1023")], Choice::None);
        check(200, &[JSON, ("content-length", "x")], Choice::None);
        check(200, &[], Choice::None);
    }

    #[test]
    fn what_has_no_body_or_is_a_part_is_not() {
        for status in [101, 204, 205, 304] {
            check(status, &[JSON], Choice::None);
        }
        check(206, &[JSON], Choice::Instance);
        check(200, &[JSON, ("content-range", "bytes 0-9/10")], Choice::Instance);
    }

    #[test]
    fn what_is_encoded_or_must_not_be_changed_is_left_alone() {
        check(200, &[JSON, ("content-encoding", "br")], Choice::Instance);
        check(200, &[("content-type", "image/png"), ("content-encoding", "gzip")], Choice::Instance);
        check(200, &[JSON, ("cache-control", "max-age=1,No-Transform")], Choice::None);
        check(200, &[JSON, ("trailer", "Expires")], Choice::None);
    }

    #[test]
    fn which_types_compress() {
        for kind in [
            "text/html",
            "TEXT/plain ; charset=utf-8",
            "application/json",
            "application/problem+json",
            "image/svg+xml",
            "application/wasm",
            "font/ttf",
            "application/JavaScript",
        ] {
            assert!(compresses(kind.as_bytes()), "{kind}");
        }
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "application/grpc",
            "application/grpc-web+json",
            "image/png",
            "font/woff2",
            "application/octet-stream",
            "application/zip",
            "multipart/form-data; boundary=text/html",
            "",
            "json",
        ] {
            assert!(!compresses(kind.as_bytes()), "{kind}");
        }
    }

    #[test]
    fn the_header_says_what_is_sent() {
        let mut answer = header(
            200,
            &[
                JSON,
                ("content-length", "5000"),
                ("etag", "\"a\""),
                ("accept-ranges", "bytes"),
                ("repr-digest", "sha-256=:x:"),
                ("content-md5", "x"),
                ("vary", "Cookie"),
                ("vary", "Accept"),
            ],
        );
        assert!(compress().begin(Some(Coding::Gzip), &mut answer).unwrap().is_some());
        let value = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(value("content-encoding"), Some("gzip"));
        assert_eq!(value("transfer-encoding"), Some("chunked"));
        assert_eq!(value("etag"), Some("W/\"a\""));
        assert_eq!(answer.headers.get_all(VARY).iter().collect::<Vec<_>>(), ["Cookie, Accept, Accept-Encoding"]);
        for name in ["content-length", "accept-ranges", "repr-digest", "content-md5"] {
            assert_eq!(value(name), None, "{name}");
        }
    }

    #[test]
    fn who_gets_it_as_it_is_is_told_that_others_dont() {
        let mut answer = header(200, &[JSON, ("content-length", "5000"), ("etag", "\"a\"")]);
        assert!(compress().begin(None, &mut answer).unwrap().is_none());
        assert_eq!(answer.headers["vary"], "Accept-Encoding");
        assert_eq!(
            (&answer.headers["etag"], &answer.headers["content-length"]),
            (&"\"a\"".parse().unwrap(), &"5000".parse().unwrap())
        );
        let mut picture = header(200, &[("content-type", "image/png")]);
        assert!(compress().begin(Some(Coding::Gzip), &mut picture).unwrap().is_none());
        assert!(!picture.headers.contains_key(VARY));
        for said in ["accept-encoding", "Cookie, ACCEPT-ENCODING", "*"] {
            let mut answer = header(200, &[JSON, ("vary", said)]);
            compress().begin(None, &mut answer).unwrap();
            assert_eq!(answer.headers["vary"], said);
        }
    }

    #[test]
    fn a_close_delimited_answer_is_not_made_to_look_framed() {
        let mut answer = header(200, &[JSON]);
        assert!(compress().begin(Some(Coding::Gzip), &mut answer).unwrap().is_some());
        assert!(!answer.headers.contains_key(TRANSFER_ENCODING));
    }

    #[test]
    fn a_304_keeps_to_the_form_of_what_is_stored() {
        let confirm = |stored: &[(&'static str, &str)]| {
            let mut answer = header(304, &[("etag", "\"a\""), ("content-md5", "x")]);
            compress().confirm(Some(&header(200, stored).headers), None, &HeaderMap::new(), &mut answer).unwrap();
            (answer.headers["etag"].to_str().unwrap().to_owned(), answer.headers.contains_key("content-md5"))
        };
        assert_eq!(confirm(&[("content-encoding", "gzip"), ("etag", "W/\"a\"")]), ("W/\"a\"".into(), false));
        assert_eq!(confirm(&[("content-encoding", "gzip")]), ("W/\"a\"".into(), false));
        // The instance's own coding, and an answer as it is.
        assert_eq!(confirm(&[("content-encoding", "gzip"), ("etag", "\"a\"")]), ("\"a\"".into(), true));
        assert_eq!(confirm(&[("etag", "\"a\"")]), ("\"a\"".into(), true));
    }

    #[test]
    fn a_304_tells_the_client_the_tag_that_it_knows() {
        let confirm = |asked: &str| {
            let mut answer = header(304, &[("etag", "\"a\"")]);
            let asked = HeaderMap::from_iter([(http::header::IF_NONE_MATCH, asked.parse().unwrap())]);
            compress().confirm(None, Some(Coding::Gzip), &asked, &mut answer).unwrap();
            (answer.headers["etag"].to_str().unwrap().to_owned(), answer.headers.contains_key(VARY))
        };
        assert_eq!(confirm("W/\"a\""), ("W/\"a\"".into(), true));
        assert_eq!(confirm("\"a\""), ("\"a\"".into(), false));
        // Who asks by date may have either.
        for (coding, told) in [(Some(Coding::Gzip), "W/\"a\""), (None, "\"a\"")] {
            let mut answer = header(304, &[("etag", "\"a\"")]);
            compress().confirm(None, coding, &HeaderMap::new(), &mut answer).unwrap();
            assert_eq!(answer.headers["etag"], told);
        }
    }
}
