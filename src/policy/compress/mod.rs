//! Compress: in which coding an answer is sent, of those that the route offers.
//! The choice is made of the request alone, before anything else looks at it (`accept.rs`): instances and the cache see a
//! request that accepts this one coding, or none. Whether an answer is compressed is judged of its header (`answer.rs`), and its
//! body is compressed as it comes (`body.rs`). What an instance has encoded itself is left alone.
//! Not here: where it is stored. It is compressed before the cache sees it, so what is stored is compressed once.

mod accept;
mod answer;
mod body;
mod counts;
mod encoder;
mod tags;

use http::header::{ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

pub use self::body::CompressedBody;
pub use self::counts::{Compressed, compressed};
use crate::config::{Coding, Codings};

/// What a request says that accepts the answer as it is and nothing else.
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// The compiled policy of one route.
#[derive(Clone, Debug)]
pub struct Compress {
    /// At least one; the first is preferred.
    codings: Vec<Coding>,
}

impl Compress {
    /// Compiles a route's codings; none where it offers none.
    pub fn compile(codings: &Codings) -> Option<Self> {
        (!codings.0.is_empty()).then(|| Self { codings: codings.0.clone() })
    }

    /// The coding that the client gets where an answer is compressed, none where it gets it as it is. From here on the request
    /// accepts nothing else, so that instance and cache choose by the same word. Made twice, the choice is the same.
    ///
    /// # Errors
    /// Pingora's, when the header can't be set.
    pub fn choose(&self, request: &mut RequestHeader) -> Result<Option<Coding>> {
        // A date can't tell a compressed answer from the answer itself, so such a range would be put behind other bytes: who accepts a
        // coding gets the whole (RFC 9110 section 14.2). A tag can: that of a compressed answer is weak.
        let by_date = request.headers.get(IF_RANGE).is_some_and(|value| !value.as_bytes().ends_with(b"\""));
        if by_date && accept::choose(&request.headers, &self.codings).is_some() {
            request.remove_header(&IF_RANGE);
            request.remove_header(&RANGE);
        }
        let headers = &request.headers;
        // A range of a compressed answer and one of the answer itself never meet at a client, if there is only one of them.
        let coding = if headers.contains_key(RANGE) || forbids_transform(headers) {
            None
        } else {
            accept::choose(headers, &self.codings)
        };
        let accepted = coding.map_or(IDENTITY, |coding| HeaderValue::from_static(coding.token()));
        request.insert_header(ACCEPT_ENCODING, accepted)?;
        Ok(coding)
    }

    /// The tags by which the client, or the cache, asks whether something has changed: each weak one may have been made of a
    /// strong one here, so an instance that compares letter by letter is asked with both.
    ///
    /// # Errors
    /// Pingora's, when the header can't be set.
    pub fn prepare_request(&self, request: &mut RequestHeader) -> Result<()> {
        match tags::with_strong_forms(&request.headers) {
            Some(both) => request.insert_header(IF_NONE_MATCH, both),
            None => Ok(()),
        }
    }

    /// In the answer as it goes to the client, stored or not: no ranges are offered of what was compressed.
    pub fn prepare_response(&self, response: &mut ResponseHeader) {
        if response.headers.contains_key(CONTENT_ENCODING) {
            response.remove_header(&ACCEPT_RANGES);
        }
    }
}

/// Whether nobody on the way may change the body (RFC 9111 sections 5.2.1.6 and 5.2.2.6).
fn forbids_transform(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).into_iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(lines: &[(&'static str, &str)]) -> (Option<Coding>, String) {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in lines {
            request.append_header(*name, *value).unwrap();
        }
        let compress = Compress::compile(&Codings(vec![Coding::Zstd, Coding::Gzip])).unwrap();
        let first = compress.choose(&mut request).unwrap();
        assert_eq!(compress.choose(&mut request).unwrap(), first);
        let mut left = request.headers.get_all(ACCEPT_ENCODING).iter();
        let accepted = left.next().unwrap().to_str().unwrap().to_owned();
        assert!(left.next().is_none());
        (first, accepted)
    }

    #[test]
    fn the_request_goes_on_with_the_one_coding_that_was_chosen() {
        assert_eq!(choose(&[("accept-encoding", "br, gzip")]), (Some(Coding::Gzip), "gzip".into()));
        assert_eq!(
            choose(&[("accept-encoding", "gzip;q=0.1"), ("accept-encoding", "zstd")]),
            (Some(Coding::Zstd), "zstd".into())
        );
        assert_eq!(choose(&[("accept-encoding", "br")]), (None, "identity".into()));
        assert_eq!(choose(&[]), (None, "identity".into()));
    }

    #[test]
    fn ranges_and_no_transform_are_of_the_answer_itself() {
        assert_eq!(choose(&[("accept-encoding", "gzip"), ("range", "bytes=0-1")]).0, None);
        assert_eq!(choose(&[("accept-encoding", "gzip"), ("cache-control", "max-age=0, No-Transform")]).0, None);
    }

    #[test]
    fn a_range_since_a_date_is_of_the_whole_for_who_accepts_a_coding() {
        let date = ("if-range", "Wed, 01 Jan 2025 00:00:00 GMT");
        assert_eq!(choose(&[("accept-encoding", "gzip"), ("range", "bytes=5-"), date]).0, Some(Coding::Gzip));
        assert_eq!(choose(&[("accept-encoding", "br"), ("range", "bytes=5-"), date]).0, None);
        assert_eq!(choose(&[("accept-encoding", "gzip"), ("range", "bytes=5-"), ("if-range", "\"a\"")]).0, None);
    }

    #[test]
    fn a_route_without_codings_has_no_policy() {
        assert!(Compress::compile(&Codings::default()).is_none());
    }
}
