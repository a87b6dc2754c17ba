//! Every answer the gateway makes itself: status, reason code, headers and body in one vocabulary.
//! The reason code is the same word in the body, in the log (`decided_by`) and in metrics.
//! No `_ =>` arm anywhere: a new refusal has to be decided here. Writing it to a client is the gateway's.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::json::{Object, name, push_text};

/// `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The two fields that tell a client where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimitFields {
    /// `"name";q=100;w=60`, one member a limit.
    pub policy: HeaderValue,
    /// `"name";r=63;t=37`, one member a limit.
    pub state: HeaderValue,
    /// The older fields, where they are asked for.
    pub legacy: Option<Box<LegacyFields>>,
}

/// What clients read before there was a standard: of the limit of which least is left.
#[derive(Clone, Debug, PartialEq)]
pub struct LegacyFields {
    /// `X-RateLimit-Limit`: what can be admitted at once.
    pub limit: HeaderValue,
    /// `X-RateLimit-Remaining`: what is left.
    pub remaining: HeaderValue,
    /// `X-RateLimit-Reset`: seconds until there is more.
    pub reset: HeaderValue,
}

impl LegacyFields {
    /// The fields with their names.
    pub fn into_headers(self) -> [(&'static str, HeaderValue); 3] {
        [
            ("x-ratelimit-limit", self.limit),
            ("x-ratelimit-remaining", self.remaining),
            ("x-ratelimit-reset", self.reset),
        ]
    }
}

/// Why a request was not forwarded, or why no answer of an instance could be passed on.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// HTTP/1.1 without `Host`, or a host that is none.
    BadHost,
    /// A path that can't be brought into one safe form.
    BadPath(&'static str),
    /// A body that breaks the rules of HTTP.
    BadBody,
    /// A header over `connections.header_max`.
    HeaderTooLarge,
    /// The listener sends everything to https.
    RedirectHttps {
        /// The same address on https.
        location: HeaderValue,
    },
    /// No pattern matches.
    NoRoute,
    /// A pattern matches, but not with this method.
    MethodNotAllowed {
        /// The methods that the path admits, as `Allow` has them.
        allow: Arc<str>,
    },
    /// No key where one is required.
    NoKey {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// A key that is not configured.
    UnknownKey {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// Two values where one key is expected.
    AmbiguousKey,
    /// A key that was valid until a moment ago.
    ExpiredKey {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// Whether the key is valid can't be told: the key store was not read since the process began.
    KeysUnavailable,
    /// A key whose consumer may not use this route.
    NotAllowed,
    /// An address from which this route may not be used.
    ClientNotAllowed,
    /// No refusal: the answer to a preflight, whose headers are the route's.
    Preflight,
    /// The address sends more than `flood_guard` admits.
    FloodGuard {
        /// When to try again.
        retry_after_seconds: u64,
    },
    /// Over one of the route's limits.
    RateLimited {
        /// When the request would be admitted, if nobody else takes it.
        retry_after_seconds: u64,
        /// Where the client stands.
        fields: RateLimitFields,
        /// The names of the limits that refused.
        violated: Vec<Arc<str>>,
    },
    /// The store of shared limits gives no answer, and `limits.on_error` is `refuse`.
    LimitStoreUnavailable,
    /// As many requests of the caller are served as may be at once.
    ConcurrencyLimited {
        /// What the route admits.
        requests_max: u32,
    },
    /// A request body over `body_max`.
    BodyTooLarge {
        /// What the route admits.
        bytes_max: u64,
    },
    /// The client stopped sending its request.
    ClientTimeout,
    /// The client left before the answer; nothing is sent.
    ClientClosed,
    /// No instance of the service can be used.
    NoInstance,
    /// The service bears no more requests at once, and none ended in time.
    Overloaded,
    /// Instances failed too often, and are not asked for a while.
    BreakerOpen {
        /// When one is asked again.
        retry_after_seconds: u64,
    },
    /// No connection to an instance.
    UpstreamConnect,
    /// An instance took longer than a timeout.
    UpstreamTimeout,
    /// The client only wants what is stored (`only-if-cached`), and it is not.
    NotCached,
    /// An instance closed or reset the connection before its answer was complete.
    UpstreamClosed,
    /// An instance answered with something that is not HTTP.
    UpstreamInvalid,
    /// A fault of the gateway.
    Internal(&'static str),
}

impl Refusal {
    /// The status the client is sent.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RedirectHttps { .. } => StatusCode::PERMANENT_REDIRECT,
            Self::Preflight => StatusCode::NO_CONTENT,
            Self::BadHost | Self::BadPath(_) | Self::BadBody | Self::AmbiguousKey => StatusCode::BAD_REQUEST,
            Self::NoKey { .. } | Self::UnknownKey { .. } | Self::ExpiredKey { .. } => StatusCode::UNAUTHORIZED,
            Self::NotAllowed | Self::ClientNotAllowed => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::FloodGuard { .. } | Self::RateLimited { .. } | Self::ConcurrencyLimited { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::ClientClosed => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::NoInstance
            | Self::Overloaded
            | Self::BreakerOpen { .. }
            | Self::KeysUnavailable
            | Self::LimitStoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamConnect | Self::UpstreamClosed | Self::UpstreamInvalid => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout | Self::NotCached => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The word in body, log and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::BadPath(_) => "bad_path",
            Self::BadBody => "bad_body",
            Self::HeaderTooLarge => "header_too_large",
            Self::RedirectHttps { .. } => "redirect_https",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::NoKey { .. } => "no_key",
            Self::UnknownKey { .. } => "unknown_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::ExpiredKey { .. } => "expired_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::NotAllowed => "not_allowed",
            Self::ClientNotAllowed => "client_not_allowed",
            Self::Preflight => "cors",
            Self::FloodGuard { .. } => "flood_guard",
            Self::RateLimited { .. } => "rate_limited",
            Self::LimitStoreUnavailable => "limit_store_unavailable",
            Self::ConcurrencyLimited { .. } => "concurrency_limited",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::ClientTimeout => "client_timeout",
            Self::ClientClosed => crate::record::DECIDED_BY_CLIENT,
            Self::NoInstance => "no_instance",
            Self::Overloaded => "overloaded",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::NotCached => "not_cached",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::Internal(_) => "internal",
        }
    }

    /// Whether flood guard, auth, access, limit or body size refused.
    pub fn is_blocked(&self) -> bool {
        match self {
            Self::NoKey { .. }
            | Self::UnknownKey { .. }
            | Self::AmbiguousKey
            | Self::ExpiredKey { .. }
            | Self::NotAllowed
            | Self::ClientNotAllowed
            | Self::FloodGuard { .. }
            | Self::RateLimited { .. }
            | Self::ConcurrencyLimited { .. }
            | Self::BodyTooLarge { .. } => true,
            Self::BadHost
            | Self::BadPath(_)
            | Self::BadBody
            | Self::HeaderTooLarge
            | Self::RedirectHttps { .. }
            | Self::NoRoute
            | Self::MethodNotAllowed { .. }
            | Self::Preflight
            | Self::KeysUnavailable
            | Self::LimitStoreUnavailable
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::NoInstance
            | Self::Overloaded
            | Self::BreakerOpen { .. }
            | Self::UpstreamConnect
            | Self::UpstreamTimeout
            | Self::NotCached
            | Self::UpstreamClosed
            | Self::UpstreamInvalid
            | Self::Internal(_) => false,
        }
    }

    /// What a client developer reads to understand it.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::BadHost => "The request needs one valid Host.".into(),
            Self::BadPath(why) => format!("The path can't be used: {why}.").into(),
            Self::HeaderTooLarge => "The request header is too large.".into(),
            Self::BadBody => "The request body breaks the rules of HTTP.".into(),
            Self::RedirectHttps { .. } => "This address is served over https only.".into(),
            Self::NoRoute => "No route matches this host and path.".into(),
            Self::MethodNotAllowed { allow } => format!("This path admits {allow}.").into(),
            Self::NoKey { .. } => {
                "This route needs a key: send it as the header X-API-Key or as Authorization: Bearer.".into()
            }
            Self::AmbiguousKey => "Two keys in the same place: send one key, once.".into(),
            Self::ExpiredKey { .. } => "The key has expired.".into(),
            Self::KeysUnavailable => {
                "The gateway has not read its keys yet, so it can't tell whether this one is valid.".into()
            }
            Self::UnknownKey { .. } => "The key is not known here.".into(),
            Self::NotAllowed => "The key is known, but may not be used on this route.".into(),
            Self::ClientNotAllowed => "This route may not be used from this address.".into(),
            Self::Preflight => "Pages of this origin may call with the methods and headers that are named.".into(),
            Self::FloodGuard { retry_after_seconds } => {
                format!("Too many requests from this address. Try again in {retry_after_seconds} s.").into()
            }
            Self::RateLimited { retry_after_seconds, violated, .. } => {
                format!("Over the limit {}. Try again in {retry_after_seconds} s.", violated.join(", ")).into()
            }
            Self::LimitStoreUnavailable => {
                "The limits of this route can't be decided now. Try again in a moment.".into()
            }
            Self::ConcurrencyLimited { requests_max } => {
                format!("{requests_max} requests are being answered already. Try again when one has ended.").into()
            }
            Self::BodyTooLarge { bytes_max } => format!("The request body may have at most {bytes_max} bytes.").into(),
            Self::ClientTimeout => "The request did not arrive in time.".into(),
            Self::ClientClosed => "The client closed the connection.".into(),
            Self::NoInstance => "No instance of the service can be used now.".into(),
            Self::Overloaded => "The service is answering as many requests as it can. Try again in a moment.".into(),
            Self::BreakerOpen { retry_after_seconds } => {
                format!("The service failed too often and is left alone. Try again in {retry_after_seconds} s.").into()
            }
            Self::UpstreamConnect => "No connection to the service.".into(),
            Self::UpstreamTimeout => "The service did not answer in time.".into(),
            Self::NotCached => "The request only wants a stored answer, and there is none that would do.".into(),
            Self::UpstreamClosed => "The service closed the connection before it answered.".into(),
            Self::UpstreamInvalid => "The service answered with something that is not HTTP.".into(),
            Self::Internal(_) => "The gateway failed. The request id finds it in the log.".into(),
        }
    }

    /// Headers beside the body's: `Allow`, `WWW-Authenticate`, `Retry-After`, `RateLimit`, `Location`.
    pub fn headers(&self) -> SmallVec<[(HeaderName, HeaderValue); 4]> {
        let mut headers = SmallVec::new();
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        match self {
            Self::RedirectHttps { location } => {
                headers.push((LOCATION, location.clone()));
            }
            Self::MethodNotAllowed { allow } => {
                if let Ok(allow) = HeaderValue::from_str(allow) {
                    headers.push((ALLOW, allow));
                }
            }
            Self::NoKey { challenge } | Self::UnknownKey { challenge } | Self::ExpiredKey { challenge } => {
                headers.push((WWW_AUTHENTICATE, challenge.clone()));
            }
            Self::FloodGuard { retry_after_seconds } | Self::BreakerOpen { retry_after_seconds } => {
                headers.push((RETRY_AFTER, (*retry_after_seconds).into()));
            }
            Self::RateLimited { retry_after_seconds, fields, .. } => {
                headers.push((RETRY_AFTER, (*retry_after_seconds).into()));
                headers.push((RATELIMIT_POLICY, fields.policy.clone()));
                headers.push((RATELIMIT, fields.state.clone()));
                let legacy = fields.legacy.iter().flat_map(|legacy| LegacyFields::clone(legacy).into_headers());
                headers.extend(legacy.map(|(name, value)| (HeaderName::from_static(name), value)));
            }
            Self::NoInstance
            | Self::Overloaded
            | Self::ConcurrencyLimited { .. }
            | Self::KeysUnavailable
            | Self::LimitStoreUnavailable => {
                headers.push((RETRY_AFTER, HeaderValue::from_static("1")));
            }
            Self::BadHost
            | Self::BadPath(_)
            | Self::BadBody
            | Self::HeaderTooLarge
            | Self::NoRoute
            | Self::AmbiguousKey
            | Self::NotAllowed
            | Self::ClientNotAllowed
            | Self::Preflight
            | Self::BodyTooLarge { .. }
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::UpstreamConnect
            | Self::UpstreamTimeout
            | Self::NotCached
            | Self::UpstreamClosed
            | Self::UpstreamInvalid
            | Self::Internal(_) => {}
        }
        headers
    }

    /// The body: problem details (RFC 9457) as JSON, with the reason code as `reason`.
    pub fn body(&self, request_id: Uuid) -> Vec<u8> {
        let status = self.status();
        let reason = self.reason();
        let mut body = Vec::with_capacity(320);
        let mut problem = Object::open(&mut body);
        let out = problem.name(name!("type"));
        out.extend_from_slice(b"\"urn:tollgate:");
        out.extend_from_slice(reason.as_bytes());
        out.push(b'"');
        problem.text(name!("title"), status.canonical_reason().unwrap_or("Refused"));
        problem.number(name!("status"), status.as_u16().into());
        problem.text(name!("detail"), &self.detail());
        problem.text(name!("reason"), reason);
        let mut id = Uuid::encode_buffer();
        problem.plain(name!("instance"), request_id.urn().encode_lower(&mut id).as_bytes());
        if let Self::RateLimited { violated, .. } = self {
            let out = problem.name(name!("violated-policies"));
            for (place, name) in violated.iter().enumerate() {
                out.push(if place == 0 { b'[' } else { b',' });
                push_text(out, name);
            }
            out.push(b']');
        }
        problem.close();
        body.push(b'\n');
        body
    }
}
