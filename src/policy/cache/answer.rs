//! Headers of answers that are stored: what of them is kept, what a 304 changes, and which answers make others invalid.
//! Not here: whether an answer is stored at all (`rule.rs`).

use http::header::{CONNECTION, DATE, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderName, Method, StatusCode, Version};
use pingora_http::ResponseHeader;

/// Header fields of one connection, which are never stored; those that `Connection` names come on top.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a 304 may not change in the stored answer (RFC 9111 section 3.2); `Vary` chose the variant and stays.
const KEPT_BY_304: [&str; 5] = ["content-length", "content-encoding", "content-type", "content-range", "vary"];

/// Whether an answer with this status to this method makes what is stored of the URL invalid (RFC 9111 section 4.4);
/// then [`crate::cache::Cache::invalidate`] is called, whichever route answered.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

/// Whether the end of an answer without Content-Length can be told from a cut connection.
pub(super) fn delimited(head: &ResponseHeader) -> bool {
    head.version == Version::HTTP_2
        || head.status == StatusCode::NO_CONTENT
        || head.headers.contains_key(TRANSFER_ENCODING)
}

/// RFC 9111 section 3.2: what a 304 says replaces what is stored; its cookies only where they are stored.
pub(super) fn refresh(head: &mut ResponseHeader, not_modified: &ResponseHeader, stores_cookies: bool) {
    // Without a date of its own the confirmation was made now, not when the stored answer was.
    head.remove_header(&DATE);
    for name in not_modified.headers.keys() {
        let is_kept = KEPT_BY_304.contains(&name.as_str()) || (*name == SET_COOKIE && !stores_cookies);
        if is_kept || HOP_BY_HOP.contains(&name.as_str()) {
            continue;
        }
        head.remove_header(name);
        for value in not_modified.headers.get_all(name) {
            // Fails only beyond 32,768 headers, which Pingora does not read.
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
}

pub(super) fn remove_hop_by_hop(head: &mut ResponseHeader) {
    let connection = head.headers.get_all(CONNECTION).iter();
    let nominated: Vec<HeaderName> = connection
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in nominated {
        head.remove_header(&name);
    }
    for name in HOP_BY_HOP {
        head.remove_header(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_answers_invalidate() {
        let check = |method, status| invalidates(&method, StatusCode::from_u16(status).unwrap());
        assert!(check(Method::POST, 200) && check(Method::DELETE, 204) && check(Method::PUT, 303));
        assert!(check(Method::from_bytes(b"M-SEARCH").unwrap(), 200));
        assert!(!check(Method::POST, 404) && !check(Method::POST, 500));
        assert!(!check(Method::GET, 200) && !check(Method::OPTIONS, 200));
    }
}
