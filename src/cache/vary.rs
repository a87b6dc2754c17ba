//! `Vary`: which header fields of a request choose between the stored answers of one key (RFC 9111 section 4.1).
//! A variant is known by a hash of the nominated names and the request's values; absent differs from empty.
//! Not here: `Vary: *` and fields that the gateway itself writes, whose answers are never stored (`freshness.rs`).

use http::header::{ACCEPT_ENCODING, VARY};
use http::{HeaderMap, HeaderName};
use pingora_cache::VarianceBuilder;
use pingora_cache::key::HashBinary;

/// The nominated names, sorted, each once; `None` where one of them is `*` or no field name.
pub fn nominated(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in response.get_all(VARY) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if name == b"*" {
                return None;
            }
            if !name.is_empty() {
                names.push(HeaderName::from_bytes(name).ok()?);
            }
        }
    }
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    Some(names)
}

/// The variant that this request asks for; `None` where the answer does not vary.
pub fn variance(response: &HeaderMap, request: &HeaderMap) -> Option<HashBinary> {
    if !response.contains_key(VARY) {
        return None;
    }
    let names = nominated(response)?;
    let mut variance = VarianceBuilder::new();
    for name in &names {
        variance.add_owned_value(name.as_str(), selecting_value(request, name));
    }
    variance.finalize()
}

/// The field's lines as one value: a leading byte says whether there is any.
fn selecting_value(request: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let mut lines = request.get_all(name).iter();
    let Some(first) = lines.next() else { return vec![b'-'] };
    let mut value = vec![b'+'];
    value.extend_from_slice(first.as_bytes().trim_ascii());
    for line in lines {
        value.extend_from_slice(b", ");
        value.extend_from_slice(line.as_bytes().trim_ascii());
    }
    if name == ACCEPT_ENCODING {
        // Codings are compared without case, and white space between them means nothing.
        value.retain(|byte| !byte.is_ascii_whitespace());
        value.make_ascii_lowercase();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn names_are_sorted_and_counted_once() {
        let names = nominated(&headers(&[("vary", "Accept-Language, accept"), ("vary", "Accept,")])).unwrap();
        assert_eq!(names, ["accept", "accept-language"]);
        assert_eq!(nominated(&headers(&[("vary", "accept, *")])), None);
        assert_eq!(nominated(&headers(&[("vary", "not a name")])), None);
        assert_eq!(variance(&headers(&[]), &headers(&[("accept", "x")])), None);
    }

    #[test]
    fn only_nominated_fields_choose() {
        let response = headers(&[("vary", "Accept-Language")]);
        let ask = |lines: &[(&'static str, &str)]| variance(&response, &headers(lines)).unwrap();
        assert_ne!(ask(&[("accept-language", "de")]), ask(&[("accept-language", "en")]));
        assert_eq!(ask(&[("accept-language", "de")]), ask(&[("accept-language", "de"), ("accept", "x")]));
        assert_ne!(ask(&[]), ask(&[("accept-language", "")]));
        assert_eq!(ask(&[("accept-language", "de, en")]), ask(&[("accept-language", "de"), ("accept-language", "en")]));
    }

    #[test]
    fn spelling_of_accept_encoding_does_not_choose() {
        let response = headers(&[("vary", "accept-encoding")]);
        let ask = |value| variance(&response, &headers(&[("accept-encoding", value)])).unwrap();
        assert_eq!(ask("gzip, br"), ask("GZIP,br"));
        assert_ne!(ask("gzip"), ask("br"));
    }
}
