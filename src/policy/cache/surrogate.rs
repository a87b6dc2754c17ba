//! `surrogate_control: true`: `Surrogate-Control` (Edge Architecture Specification, W3C Note of 4 August 2001, section 2.4), which origins that
//! are older than RFC 9213 send to reverse proxies, is read as `CDN-Cache-Control` and stored as such; clients see neither.
//! Directives for another device are not for this one; what can't be read makes an answer stale.

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::rule::CacheRule;
use crate::cache::cache_control::Directives;

const SURROGATE_CONTROL: &str = "surrogate-control";
const SURROGATE_CAPABILITY: &str = "surrogate-capability";
const CDN_CACHE_CONTROL: &str = "cdn-cache-control";

/// What directives of `Surrogate-Control` name where they are for this proxy alone.
const DEVICE: &str = "tollgate";
const CAPABILITY: &str = "tollgate=\"Surrogate/1.0\"";

/// More seconds than these are not told apart (RFC 9111 section 1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

impl CacheRule {
    /// Takes out what the client says of that: it is about nobody, and must not tell answers apart.
    pub fn forget_capability(&self, request: &mut RequestHeader) {
        if self.surrogate_control {
            request.remove_header(SURROGATE_CAPABILITY);
        }
    }

    /// Says to the instance that its `Surrogate-Control` is read.
    ///
    /// # Errors
    /// Pingora's, when the header can't be set.
    pub fn declare(&self, request: &mut RequestHeader) -> Result<()> {
        if self.surrogate_control { request.insert_header(SURROGATE_CAPABILITY, CAPABILITY) } else { Ok(()) }
    }

    /// Puts what `Surrogate-Control` says in the place of `CDN-Cache-Control`, which counts where both are there and it can be
    /// read. Where it did, `Surrogate-Control` stays, too, and says so.
    pub fn read_surrogate_control(&self, answer: &mut ResponseHeader) {
        if !self.surrogate_control || !answer.headers.contains_key(SURROGATE_CONTROL) {
            return;
        }
        let lines: Vec<String> = answer.headers.get_all(SURROGATE_CONTROL).iter().map(text).collect();
        let said = translate(&lines.join(","));
        if said.is_empty() || Directives::of(&answer.headers).targeted {
            answer.remove_header(SURROGATE_CONTROL);
        } else if let Ok(value) = HeaderValue::try_from(said) {
            // Fails only beyond 32,768 headers, which Pingora does not read.
            let _ = answer.insert_header(CDN_CACHE_CONTROL, value);
        }
    }

    /// Takes out what was said to this proxy alone: a cache in front would keep it where no purge reaches it.
    pub fn hide_surrogate_control(&self, answer: &mut ResponseHeader) {
        if self.surrogate_control && answer.remove_header(SURROGATE_CONTROL).is_some() {
            answer.remove_header(CDN_CACHE_CONTROL);
        }
    }
}

impl CacheRule {
    /// Whether [`Self::hide_surrogate_control`] takes this field out of these.
    pub(super) fn hides_surrogate(&self, name: &HeaderName, headers: &HeaderMap) -> bool {
        let is_such = || *name == SURROGATE_CONTROL || *name == CDN_CACHE_CONTROL;
        self.surrogate_control && is_such() && headers.contains_key(SURROGATE_CONTROL)
    }
}

fn text(value: &HeaderValue) -> String {
    value.as_bytes().escape_ascii().to_string()
}

/// The directives of a line that are for this proxy, as RFC 9213 has them; those that name it count before others.
fn translate(line: &str) -> String {
    let (mut said, mut said_to_this) = (Vec::new(), Vec::new());
    for member in line.split(',').map(str::trim) {
        let (directive, device) =
            member.split_once(';').map_or((member, ""), |(directive, device)| (directive, device.trim()));
        if !device.is_empty() && device != DEVICE {
            continue;
        }
        let said = if device.is_empty() { &mut said } else { &mut said_to_this };
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim_end().to_ascii_lowercase().as_str() {
            "no-store-remote" => said.push("no-store".to_owned()),
            name @ ("no-store" | "private" | "no-cache" | "must-revalidate" | "proxy-revalidate") => {
                said.push(name.to_owned())
            }
            "max-age" => match freshness(name, value) {
                Some((fresh, 0)) => said.push(format!("max-age={fresh}")),
                Some((fresh, stale)) => {
                    said.push(format!("max-age={fresh}, stale-while-revalidate={stale}, stale-if-error={stale}"));
                }
                None => said.push("max-age=0".to_owned()),
            },
            // As CDNs have them; unreadable ones allow nothing.
            window @ ("stale-while-revalidate" | "stale-if-error") => {
                said.extend(seconds(value).map(|seconds| format!("{window}={seconds}")));
            }
            // `content` asks for a processing that nobody was told is done here.
            _ => {}
        }
    }
    said.append(&mut said_to_this);
    said.join(", ")
}

/// `60`, or `60+30`: for how long it is fresh, and may be used stale after that.
fn freshness(name: &str, value: &str) -> Option<(u64, u64)> {
    let (fresh, stale) = value.split_once('+').unwrap_or((value, "0"));
    (!name.ends_with([' ', '\t'])).then_some((seconds(fresh)?, seconds(stale)?))
}

fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_this_proxy_is_translated() {
        let is = |line: &str, said: &str| assert_eq!(translate(line), said, "{line}");
        is("max-age=60", "max-age=60");
        is("foo, MaX-aGe=60, content=\"ESI/1.0\"", "max-age=60");
        is("max-age=60+30", "max-age=60, stale-while-revalidate=30, stale-if-error=30");
        is("max-age=60;tollgate, no-store;other", "max-age=60");
        is("no-store", "no-store");
        is("max-age=99999999999999999999", "max-age=2147483648");
        is("max-age=60;other", "");
        is("max-age=60;tollgate, max-age=5, private", "max-age=5, private, max-age=60");
        is(
            "max-age=1, stale-while-revalidate=60, stale-if-error=x, no-cache",
            "max-age=1, stale-while-revalidate=60, no-cache",
        );
        for unreadable in
            ["max-age", "max-age=", "max-age =60", "max-age= 60", "max-age=-1", "max-age=1.5", "max-age=1+"]
        {
            is(unreadable, "max-age=0");
        }
    }
}
