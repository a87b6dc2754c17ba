//! Guard: who may ask the admin API.
//! Host against DNS rebinding (a page whose name is made to point here), Origin and `Sec-Fetch-Site` against pages that
//! make a browser send a change, the token against everyone else. It only decides; absence of proof refuses.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::config::{Admin, Digest};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What probes ask without a token.
const WITHOUT_TOKEN: [&str; 2] = ["/health", "/ready"];

/// The rules of one admin listener.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<Digest>,
    hosts: Vec<String>,
}

impl Guard {
    /// The rules that the configuration asks for.
    pub fn new(admin: &Admin) -> Self {
        Self { token: admin.token_sha256, hosts: admin.hosts.clone() }
    }

    /// Whether this request may be answered; `local` is the address the client connected to.
    pub fn admit(&self, request: &Parts, local: SocketAddr) -> Result<(), Problem> {
        let host = self.host(request, local)?;
        if !matches!(request.method, Method::GET | Method::HEAD) {
            same_origin(&request.headers, &host)?;
        }
        if WITHOUT_TOKEN.contains(&request.uri.path()) { Ok(()) } else { self.token(&request.headers) }
    }

    /// The host asked for, when it is one of ours.
    fn host(&self, request: &Parts, local: SocketAddr) -> Result<Authority, Problem> {
        let one = only(&request.headers, HOST).ok().flatten();
        let host = one.and_then(|value| Authority::try_from(value.as_bytes()).ok());
        let Some(host) = host else {
            return Err(Problem::bad_request("bad_host", "The request needs one valid Host."));
        };
        // A request line with a host of its own (RFC 9112 section 3.2.2) overrides the header, so both must be ours.
        if self.is_ours(&host, local) && request.uri.authority().is_none_or(|asked| self.is_ours(asked, local)) {
            return Ok(host);
        }
        let detail = format!(
            "The host {host} is not {local}, not localhost:{} and not a name in admin.hosts. Add it there if it is right.",
            local.port()
        );
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail))
    }

    fn is_ours(&self, host: &Authority, local: SocketAddr) -> bool {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let is_local = name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == local.ip().to_canonical());
        let port = if host.port().is_some() { host.port_u16() } else { Some(80) };
        if is_local && port == Some(local.port()) {
            return true;
        }
        // A configured name holds with any port, `name:port` with that port only.
        self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name) || ours.eq_ignore_ascii_case(host.as_str()))
    }

    fn token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(expected) = &self.token else { return Ok(()) };
        let Ok(Some(value)) = only(headers, AUTHORIZATION) else {
            return Err(Problem::unauthorized("The admin API needs its token: send it as Authorization: Bearer."));
        };
        let token = match value.as_bytes().split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => return Err(Problem::unauthorized("The token is sent as Authorization: Bearer.")),
        };
        if bool::from(Sha256::digest(token).ct_eq(&expected.0)) {
            Ok(())
        } else {
            Err(Problem::unauthorized("The token is not the one of admin.token_sha256."))
        }
    }
}

/// Refuses a change that a page of another origin made a browser send. Programs send neither header.
fn same_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    let own = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        authority.is_some_and(|(scheme, authority)| {
            matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host.as_str())
        })
    };
    let fetched_here = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    if headers.get_all(ORIGIN).iter().all(own) && headers.get_all(SEC_FETCH_SITE).iter().all(fetched_here) {
        return Ok(());
    }
    let detail = "Changes are not taken from pages of another origin.";
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail))
}

/// The only field of that name; an error when there are several.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LOCAL: &str = "127.0.0.1:8081";

    fn guard(hosts: &[&str], token: Option<&str>) -> Guard {
        let token = token.map(|token| Digest(Sha256::digest(token).into()));
        Guard { token, hosts: hosts.iter().map(|host| (*host).to_owned()).collect() }
    }

    /// The status of the refusal, 0 when admitted.
    fn ask(guard: &Guard, local: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        guard.admit(&parts, local.parse().unwrap()).map_or_else(|problem| problem.status.as_u16(), |()| 0)
    }

    #[test]
    fn hosts_are_the_local_address_localhost_and_configured_names() {
        let guard = guard(&["gw.internal", "admin.example:9000"], None);
        for (local, host, expected) in [
            (LOCAL, "127.0.0.1:8081", 0),
            (LOCAL, "localhost:8081", 0),
            (LOCAL, "LocalHost:8081", 0),
            (LOCAL, "gw.internal", 0),
            (LOCAL, "GW.internal:8081", 0),
            (LOCAL, "gw.internal:443", 0),
            (LOCAL, "admin.example:9000", 0),
            (LOCAL, "admin.example", 421),
            (LOCAL, "admin.example:8081", 421),
            (LOCAL, "localhost", 421),
            (LOCAL, "localhost:8080", 421),
            (LOCAL, "localhost:99999", 421),
            (LOCAL, "127.0.0.1", 421),
            (LOCAL, "127.0.0.2:8081", 421),
            (LOCAL, "evil.example:8081", 421),
            (LOCAL, "localhost.evil.example:8081", 421),
            (LOCAL, "127.0.0.1.evil.example:8081", 421),
            (LOCAL, "sub.gw.internal:8081", 421),
            (LOCAL, "[::1]:8081", 421),
            (LOCAL, "localhost:8081@evil.example", 421),
            (LOCAL, "local host:8081", 400),
            (LOCAL, "", 400),
            ("127.0.0.1:80", "127.0.0.1", 0),
            ("[::1]:8081", "[::1]:8081", 0),
            ("[::1]:8081", "localhost:8081", 0),
            ("10.0.0.7:8081", "10.0.0.7:8081", 0),
            ("10.0.0.7:8081", "10.0.0.8:8081", 421),
            ("[::ffff:10.0.0.7]:8081", "10.0.0.7:8081", 0),
        ] {
            assert_eq!(ask(&guard, local, "GET", "/admin/summary", &[("host", host)]), expected, "{host} on {local}");
        }
    }

    #[test]
    fn a_host_is_needed_once() {
        let guard = guard(&[], None);
        assert_eq!(ask(&guard, LOCAL, "GET", "/health", &[]), 400);
        assert_eq!(ask(&guard, LOCAL, "GET", "/health", &[("host", LOCAL), ("host", LOCAL)]), 400);
    }

    #[test]
    fn the_host_of_the_request_line_counts_too() {
        let guard = guard(&[], None);
        assert_eq!(ask(&guard, LOCAL, "GET", "http://evil.example:8081/health", &[("host", LOCAL)]), 421);
        assert_eq!(ask(&guard, LOCAL, "GET", "http://127.0.0.1:8081/health", &[("host", "evil.example:8081")]), 421);
        assert_eq!(ask(&guard, LOCAL, "GET", "http://127.0.0.1:8081/health", &[("host", LOCAL)]), 0);
    }

    #[test]
    fn changes_are_taken_from_the_same_origin_only() {
        let guard = guard(&["gw.internal"], None);
        for (host, name, value, expected) in [
            (LOCAL, "origin", "http://127.0.0.1:8081", 0),
            ("gw.internal", "origin", "https://GW.internal", 0),
            (LOCAL, "origin", "http://localhost:8081", 403),
            (LOCAL, "origin", "http://127.0.0.1:3000", 403),
            (LOCAL, "origin", "https://evil.example", 403),
            (LOCAL, "origin", "ftp://127.0.0.1:8081", 403),
            (LOCAL, "origin", "null", 403),
            (LOCAL, "origin", "", 403),
            (LOCAL, "sec-fetch-site", "same-origin", 0),
            (LOCAL, "sec-fetch-site", "none", 0),
            (LOCAL, "sec-fetch-site", "cross-site", 403),
            (LOCAL, "sec-fetch-site", "same-site", 403),
            (LOCAL, "sec-fetch-site", "anything", 403),
        ] {
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
                let found = ask(&guard, LOCAL, method, "/admin/reload", &[("host", host), (name, value)]);
                assert_eq!(found, expected, "{method} {name}: {value}");
            }
        }
        let both = [("host", LOCAL), ("origin", "http://127.0.0.1:8081"), ("origin", "https://evil.example")];
        assert_eq!(ask(&guard, LOCAL, "POST", "/admin/reload", &both), 403);
        assert_eq!(ask(&guard, LOCAL, "POST", "/admin/reload", &[("host", LOCAL)]), 0);
        let read = [("host", LOCAL), ("origin", "https://evil.example")];
        assert_eq!(ask(&guard, LOCAL, "GET", "/admin/summary", &read), 0);
    }

    #[test]
    fn with_a_token_only_probes_go_without() {
        let guard = guard(&[], Some("s3cret"));
        for (target, value, expected) in [
            ("/health", None, 0),
            ("/ready", None, 0),
            ("/health/services", None, 401),
            ("/health/", None, 401),
            ("/metrics", None, 401),
            ("/admin/summary", None, 401),
            ("/nowhere", None, 401),
            ("/metrics", Some("Bearer s3cret"), 0),
            ("/metrics", Some("bearer  s3cret "), 0),
            ("/metrics", Some("Bearer wrong"), 401),
            ("/metrics", Some("Bearer "), 401),
            ("/metrics", Some("Bearer"), 401),
            ("/metrics", Some("Basic s3cret"), 401),
            ("/metrics", Some("s3cret"), 401),
        ] {
            let mut headers = vec![("host", LOCAL)];
            headers.extend(value.map(|value| ("authorization", value)));
            assert_eq!(ask(&guard, LOCAL, "GET", target, &headers), expected, "{target} {value:?}");
        }
        let twice = [("host", LOCAL), ("authorization", "Bearer s3cret"), ("authorization", "Bearer wrong")];
        assert_eq!(ask(&guard, LOCAL, "GET", "/metrics", &twice), 401);
    }

    #[test]
    fn a_foreign_host_is_refused_before_the_token_is_looked_at() {
        let guard = guard(&[], Some("s3cret"));
        let headers = [("host", "evil.example"), ("authorization", "Bearer s3cret")];
        assert_eq!(ask(&guard, LOCAL, "GET", "/metrics", &headers), 421);
    }
}
