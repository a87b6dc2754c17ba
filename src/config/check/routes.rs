//! Routes: services and consumers that exist, paths that fit the patterns, headers that may be set.
//! Not here: limits (`limits.rs`), patterns that cannot stand together (`overlap.rs`), and which pattern wins (`runtime`).

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};

use super::Check;
use super::overlap::Overlaps;
use crate::config::did_you_mean;
use crate::config::pattern::literal;
use crate::config::{HeaderChanges, HeaderRules, Pattern, Route, Segment};

impl Check<'_> {
    pub(super) fn routes(&mut self) {
        let config = &self.draft.config;
        self.key_rule("defaults.keys", &config.defaults.keys);
        if let Some(retry) = &config.defaults.retry {
            self.retry("defaults.retry", retry);
        }
        for (name, route) in &config.routes {
            let path = format!("routes.{name}");
            if !name.contains('/') {
                self.name(path.clone(), name);
            }
            self.route(&path, route);
        }
        for (path, message) in Overlaps::find(config, self.places) {
            self.problem(path, message);
        }
    }

    fn route(&mut self, path: &str, route: &Route) {
        if !self.draft.services.contains(&route.to) && !self.draft.lost.contains("services") {
            let hint = did_you_mean(&route.to, self.draft.services.iter().map(String::as_str));
            self.problem(format!("{path}.to"), format!("no service named `{}`{hint}", route.to));
        }
        if let Some(keys) = &route.keys {
            self.key_rule(&format!("{path}.keys"), keys);
        }
        if let Some(clients) = &route.clients {
            self.clients(&format!("{path}.clients"), clients);
        }
        if let Some(cors) = &route.cors {
            self.cors(&format!("{path}.cors"), cors);
        }
        if let Some(timeout) = route.timeout {
            self.not_zero(format!("{path}.timeout"), timeout);
        }
        if let Some(Some(retry)) = &route.retry {
            self.retry(&format!("{path}.retry"), retry);
        }
        if let Some(cache) = &route.cache {
            self.cache(&format!("{path}.cache"), cache);
        }
        self.paths(path, route);
        self.headers(&format!("{path}.headers"), &route.headers);
        self.compress(path, route);
    }

    fn compress(&mut self, path: &str, route: &Route) {
        if route.compress.is_none() {
            return;
        }
        let is_it = |name: &&String| name.eq_ignore_ascii_case("accept-encoding");
        let headers = &route.headers.request;
        let set = headers.set.keys().find(is_it).map(|name| format!("set.{name}"));
        let removed = headers.remove.iter().position(|name| is_it(&name)).map(|at| format!("remove[{at}]"));
        for changed in set.into_iter().chain(removed) {
            self.problem(
                format!("{path}.headers.request.{changed}"),
                "with `compress` instances see the coding that was chosen: an answer in another one would reach clients that refuse it",
            );
        }
    }

    fn paths(&mut self, path: &str, route: &Route) {
        if let Some(prefix) = &route.strip_prefix {
            let at = format!("{path}.strip_prefix");
            if route.rewrite.is_some() {
                self.problem(at, "`strip_prefix` and `rewrite` both say what instances see: one of them has to go");
            } else if let Err(message) = check_prefix(prefix) {
                self.problem(at, message);
            } else if let Some(other) = route.patterns.iter().find(|pattern| !has_prefix(pattern, prefix)) {
                self.problem(
                    at,
                    format!("`{prefix}` is not the beginning of the pattern `{}`, up to a slash", other.text),
                );
            }
        }
        if let Some(rewrite) = &route.rewrite
            && let Err(message) = check_rewrite(rewrite, &route.patterns)
        {
            self.problem(format!("{path}.rewrite"), message);
        }
    }

    fn headers(&mut self, path: &str, rules: &HeaderRules) {
        for (name, changes) in [("request", &rules.request), ("response", &rules.response)] {
            self.header_changes(&format!("{path}.{name}"), changes);
        }
    }

    fn header_changes(&mut self, path: &str, changes: &HeaderChanges) {
        let mut set = HashSet::new();
        for (name, value) in &changes.set {
            let at = format!("{path}.set.{name}");
            if let Err(message) = check_header(name) {
                self.problem(at.clone(), message);
            }
            if HeaderValue::from_str(value).is_err() {
                self.problem(at.clone(), "a header value is visible ASCII, without line breaks");
            }
            if !set.insert(name.to_ascii_lowercase()) {
                self.problem(at, format!("`{name}` is set twice: header names do not depend on case"));
            }
        }
        for (index, name) in changes.remove.iter().enumerate() {
            let at = self.element(&format!("{path}.remove"), index, changes.remove.len());
            if let Err(message) = check_header(name) {
                self.problem(at, message);
            }
        }
    }
}

/// Hop-by-hop fields belong to a connection, the others to the gateway: forwarding would break or lie.
fn check_header(name: &str) -> Result<(), String> {
    let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else { return Err(format!("`{name}` is no header name")) };
    match header.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "content-length" => Err(format!("`{name}` belongs to the connection: no rule may touch it")),
        "date" => Err(format!("`{name}` is the time of the answer's making: no rule may touch it")),
        "host" => Err("the Host that instances see is the service's `host`".to_owned()),
        "x-consumer" | "x-request-id" | "forwarded" | "x-real-ip" => {
            Err(format!("`{name}` is set by the gateway: no rule may touch it"))
        }
        header if header.starts_with("x-forwarded-") => {
            Err(format!("`{name}` is set by the gateway: no rule may touch it"))
        }
        _ => Ok(()),
    }
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    if !prefix.starts_with('/') || prefix == "/" || prefix.ends_with('/') {
        return Err(format!("`{prefix}`: a prefix begins with `/` and ends without, such as /api/users"));
    }
    if prefix.contains(['*', '{', '?', '#']) {
        return Err(format!("`{prefix}`: a prefix is plain text; `rewrite` knows names in braces"));
    }
    for part in prefix[1..].split('/') {
        literal(part)?;
    }
    Ok(())
}

/// Whether the pattern's path begins with the prefix, at a segment's border.
fn has_prefix(pattern: &Pattern, prefix: &str) -> bool {
    let parts: Vec<&str> = prefix[1..].split('/').collect();
    parts.len() <= pattern.segments.len()
        && parts
            .iter()
            .zip(&pattern.segments)
            .all(|(part, segment)| matches!(segment, Segment::Literal(text) if text == part))
}

fn check_rewrite(rewrite: &str, patterns: &[Pattern]) -> Result<(), String> {
    if !rewrite.starts_with('/') {
        return Err(format!("`{rewrite}` is no path: it begins with `/`"));
    }
    if rewrite.contains(['?', '#', '*']) {
        return Err(format!("`{rewrite}`: a path of text and {{names}}; the query is forwarded as it is"));
    }
    for part in rewrite[1..].split('/') {
        let mut rest = part;
        let mut text = String::new();
        while let Some(open) = rest.find('{') {
            let close = rest.find('}').filter(|close| *close > open);
            let Some(close) = close else { return Err(format!("`{part}`: a brace that is not closed")) };
            let name = &rest[open + 1..close];
            if let Some(pattern) = patterns.iter().find(|pattern| !pattern.names().any(|known| known == name)) {
                let hint = did_you_mean(name, pattern.names());
                return Err(format!("{{{name}}} is not in the pattern `{}`{hint}", pattern.text));
            }
            text.push_str(&rest[..open]);
            text.push('x');
            rest = &rest[close + 1..];
        }
        text.push_str(rest);
        if text.contains('}') {
            return Err(format!("`{part}`: a brace that was not opened"));
        }
        literal(&text)?;
    }
    Ok(())
}
