//! What is changed in headers: the route's own rules, what a client must not tell an instance, and what one hop tells the next.
//! Only on the header that is forwarded; what admission reads is the client's own.

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::config::{HeaderChanges, KeyPlace};

/// The names that the gateway sets, as it writes them. Pingora keeps a header's spelling beside its name: for a constant text
/// it needs no allocation, for a [`HeaderName`] it does.
pub mod written {
    /// The consumer, told to the instance.
    pub const X_CONSUMER: &str = "x-consumer";
    /// The request's id, told to the instance and to the client.
    pub const X_REQUEST_ID: &str = "x-request-id";
    /// The chain of addresses the request came through.
    pub const X_FORWARDED_FOR: &str = "x-forwarded-for";
    /// The scheme the client used.
    pub const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
    /// The host the client asked for.
    pub const X_FORWARDED_HOST: &str = "x-forwarded-host";
    /// The limits of the route (draft-ietf-httpapi-ratelimit-headers-10).
    pub const RATELIMIT_POLICY: &str = "ratelimit-policy";
    /// Where the client stands with them.
    pub const RATELIMIT: &str = "ratelimit";
}

/// The request's id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static(written::X_REQUEST_ID);
/// The chain of addresses the request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static(written::X_FORWARDED_FOR);
/// The scheme the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static(written::X_FORWARDED_PROTO);
/// The host the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static(written::X_FORWARDED_HOST);

/// Headers of one hop that an answer must not carry further (RFC 9110 section 7.6.1).
/// `Transfer-Encoding` is not among them: Pingora frames the body by it and writes its own.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

/// Removals first, then settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
}

impl Changes {
    /// The compiled form of one side of `headers`.
    ///
    /// # Errors
    /// The name or value that is no header.
    pub fn compile(changes: &HeaderChanges) -> Result<Self, String> {
        let name =
            |name: &String| HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no header name"));
        let remove = changes.remove.iter().map(name).collect::<Result<_, _>>()?;
        let set = changes
            .set
            .iter()
            .map(|(key, value)| {
                let value = HeaderValue::from_str(value).map_err(|_| format!("the value of `{key}` can't be sent"))?;
                Ok((name(key)?, value))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { remove, set })
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Changes a request on its way to the instance.
    ///
    /// # Errors
    /// Pingora's, when a header can't be inserted.
    pub fn apply_to_request(&self, request: &mut RequestHeader) -> pingora_core::Result<()> {
        for name in &self.remove {
            request.remove_header(name);
        }
        for (name, value) in &self.set {
            request.insert_header(name, value)?;
        }
        Ok(())
    }

    /// Changes an answer on its way to the client.
    ///
    /// # Errors
    /// Pingora's, when a header can't be inserted.
    pub fn apply_to_response(&self, response: &mut ResponseHeader) -> pingora_core::Result<()> {
        for name in &self.remove {
            response.remove_header(name);
        }
        for (name, value) in &self.set {
            response.insert_header(name, value)?;
        }
        Ok(())
    }
}

/// Removes what only the gateway, or a proxy it trusts, may tell an instance.
/// Look-alikes with underscores go always, those of key headers included: servers that map headers to variables can't tell them apart.
pub fn remove_claims(request: &mut RequestHeader, from_trusted_proxy: bool, key_in: &[KeyPlace]) {
    let is_going = |name: &&HeaderName| {
        let name = name.as_str();
        is_claim(name, from_trusted_proxy) || imitates_key_header(name, key_in)
    };
    let claims: smallvec::SmallVec<[HeaderName; 4]> = request.headers.keys().filter(is_going).cloned().collect();
    for name in &claims {
        request.remove_header(name);
    }
}

fn is_claim(name: &str, from_trusted_proxy: bool) -> bool {
    // All of them begin with one of two letters: most names are decided here.
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f')) {
        return false;
    }
    let lookalike = name.contains('_');
    let dashed = if lookalike { std::borrow::Cow::Owned(name.replace('_', "-")) } else { name.into() };
    let claim = match dashed.as_ref() {
        "x-consumer" => return true,
        "forwarded" | "x-real-ip" => true,
        "x-request-id" => lookalike,
        dashed => dashed.starts_with("x-forwarded-"),
    };
    claim && (lookalike || !from_trusted_proxy)
}

/// Whether this is the name of a header in which keys are looked for, but for underscores.
fn imitates_key_header(name: &str, key_in: &[KeyPlace]) -> bool {
    let is_like = |real: &str| {
        real.len() == name.len()
            && real.bytes().zip(name.bytes()).all(|(real, byte)| real == byte || (real == b'-' && byte == b'_'))
    };
    name.contains('_') && key_in.iter().any(|place| matches!(place, KeyPlace::Header(real) if is_like(real.as_str())))
}

/// Removes what an instance told the gateway and nobody else (RFC 9110 section 7.6.1).
/// The answer to an upgrade keeps what makes it one.
pub fn remove_hop_by_hop(response: &mut ResponseHeader) {
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    // Looked for by walking over the few headers there are: asking the map for each of these names would hash them all.
    let found = |name: &&HeaderName| HOP_BY_HOP.contains(name);
    let mut going: smallvec::SmallVec<[HeaderName; 4]> = response.headers.keys().filter(found).cloned().collect();
    if going.contains(&header::CONNECTION) {
        going.extend(nominated(&response.headers));
    }
    for name in &going {
        response.remove_header(name);
    }
}

/// The names in `Connection`, apart from those that frame or identify the message.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| {
            ![header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CACHE_CONTROL, header::SET_COOKIE]
                .contains(name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(names: &[&'static str]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in names {
            request.insert_header(*name, "x").unwrap();
        }
        request
    }

    fn left(names: &[&'static str], trusted: bool) -> Vec<String> {
        let mut request = request(names);
        remove_claims(
            &mut request,
            trusted,
            &[KeyPlace::Header(HeaderName::from_static("x-api-key")), KeyPlace::Bearer],
        );
        let mut left: Vec<String> = request.headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn a_client_can_not_claim_to_be_a_proxy() {
        let names =
            ["X-Forwarded-For", "X-Forwarded-Anything", "Forwarded", "X-Real-IP", "X-Consumer", "X-Other", "From"];
        assert_eq!(left(&names, false), ["from", "x-other"]);
    }

    #[test]
    fn look_alikes_go_always() {
        let names = ["X_Forwarded_For", "X-Forwarded_Proto", "X_Consumer", "X_Real-IP", "X_Request_Id", "X_Other"];
        assert_eq!(left(&names, false), ["x_other"]);
        assert_eq!(left(&names, true), ["x_other"]);
    }

    #[test]
    fn look_alikes_of_key_headers_go_and_key_headers_stay() {
        let names = ["X_API_Key", "X-API_Key", "X_API-Key", "X-API-Key", "X_API_Keys"];
        assert_eq!(left(&names, true), ["x-api-key", "x_api_keys"]);
    }

    #[test]
    fn a_trusted_proxy_is_believed_but_not_about_consumers() {
        let names = ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Consumer"];
        assert_eq!(left(&names, true), ["forwarded", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn an_answer_loses_what_belongs_to_one_hop() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("Connection", "close, X-Private"),
            ("X-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Upgrade", "h2c"),
            ("Content-Type", "text/plain"),
        ] {
            response.insert_header(name, value).unwrap();
        }
        remove_hop_by_hop(&mut response);
        assert_eq!(response.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn rules_remove_before_they_set() {
        let mut rules = HeaderChanges::default();
        rules.remove.push("X-A".into());
        rules.set.insert("X-A".into(), "new".into());
        let mut request = request(&["X-A"]);
        Changes::compile(&rules).unwrap().apply_to_request(&mut request).unwrap();
        assert_eq!(request.headers["x-a"], "new");
    }
}
