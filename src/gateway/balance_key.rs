//! Where a request lies on the ring of a service with `consistent_hash`: the hash of its address, key, path, header or cookie.
//! A request without what is asked for is balanced by its address, as limits count it. Not here: the ring (`upstream/balance`).

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;

use super::exchange::Exchange;
use crate::config::HashBy;
use crate::upstream::balance_key;

/// The place of the request, where its service asks for one.
pub(super) fn balance_key_of(exchange: &Exchange, headers: &HeaderMap) -> Option<u32> {
    let by = exchange.route.as_ref()?.service.hash_by()?;
    let found = match by {
        HashBy::Ip => None,
        HashBy::Key => exchange.key.as_ref().map(|key| key.name.as_bytes()),
        HashBy::Path => Some(exchange.facts.path.as_bytes()),
        HashBy::Header(name) => headers.get(name).map(|value| value.as_bytes()),
        HashBy::Cookie(name) => cookie(headers, name),
    };
    Some(found.map_or_else(
        || match exchange.facts.client_ip.to_canonical() {
            IpAddr::V4(ip) => balance_key(&ip.octets()),
            IpAddr::V6(ip) => balance_key(&ip.octets()),
        },
        balance_key,
    ))
}

/// The value of the first cookie with this name (RFC 6265 section 4.2.1).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.into_iter().find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; session=alice;b=2".parse().unwrap());
        headers.append(COOKIE, "late=x=y".parse().unwrap());
        for (name, value) in [("session", Some("alice")), ("b", Some("2")), ("late", Some("x=y")), ("sess", None)] {
            assert_eq!(cookie(&headers, name), value.map(str::as_bytes), "{name}");
        }
    }
}
