//! The facts of a finished exchange. One `Record` per exchange feeds the metrics and the request log; nothing else does.
//! Plain data that imports nothing of ours. Text in it is bounded where the record is made, so a record has a bounded size.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use uuid::Uuid;

/// The endpoint of a request that matched no route.
pub const NO_ENDPOINT: &str = "(none)";

/// `decided_by` of an answer that came from an instance.
pub const DECIDED_BY_UPSTREAM: &str = "upstream";

/// `decided_by` of an answer that came from the cache.
pub const DECIDED_BY_CACHE: &str = "cache";

/// `decided_by` of an exchange whose task ended before its answer did.
pub const DECIDED_BY_ABORTED: &str = "aborted";

/// `decided_by` where the client left before the answer was complete.
pub const DECIDED_BY_CLIENT: &str = "client_closed";

/// What happened in one exchange.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the request was read.
    pub started: SystemTime,
    /// From the request's header to the last byte of the answer.
    pub duration: Duration,
    /// The route's pattern or name, or [`NO_ENDPOINT`].
    pub endpoint: Arc<str>,
    /// The request's method.
    pub method: Method,
    /// The status the client was sent; 499 where it left before there was one.
    pub status: u16,
    /// Ours, unless a trusted proxy sent one.
    pub request_id: Uuid,
    /// What the client sent as `X-Request-Id`, when it was replaced; at most 128 bytes.
    pub client_request_id: Option<Box<str>>,
    /// The host asked for, lower case, without port; at most 255 bytes.
    pub host: Option<Box<str>>,
    /// The normalised path, with a redacted query where `log.query` says so; at most 2,048 bytes.
    pub path: Arc<str>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Who called; none for anonymous requests.
    pub consumer: Option<Arc<str>>,
    /// The name of the key that was used.
    pub key: Option<Arc<str>>,
    /// The client's address, after trusted proxies.
    pub client_ip: IpAddr,
    /// The service of the route.
    pub service: Option<Arc<str>>,
    /// The last instance that was tried.
    pub instance: Option<Arc<str>>,
    /// Tries at instances; 0 where none was asked.
    pub attempts: u16,
    /// Why it was tried again, each time.
    pub retries: Retries,
    /// From the first try to the header of the answer.
    pub upstream_time: Option<Duration>,
    /// What the cache did, where the route has one.
    pub cache: Option<CacheResult>,
    /// A refusal's reason code, or one of the `DECIDED_BY_` words.
    pub decided_by: &'static str,
    /// Whether `decided_by` is a refusal by flood guard, auth, access, limit or body size.
    pub blocked: bool,
    /// The limit that refused.
    pub limit_name: Option<Arc<str>>,
    /// The policy in `mode: observe` that would have refused.
    pub observed: Option<Arc<str>>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// At most 256 bytes.
    pub user_agent: Option<Box<str>>,
    /// The configuration that answered.
    pub generation: u32,
}

/// What the cache did with a request of a route that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheResult {
    /// Answered from memory.
    Hit,
    /// Not there, or no longer good; an instance sent the answer.
    Miss,
    /// No longer fresh, and used all the same: while another one is fetched, or because no instance could send one.
    Stale,
    /// No longer fresh, and confirmed by the instance.
    Revalidated,
    /// Not looked up for this request.
    Bypass,
    /// Fetched by another request that came at the same time.
    Collapsed,
}

/// Why a request was tried again: how the try before failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryReason {
    /// No connection.
    Connect,
    /// The connection was closed or reset before an answer.
    Closed,
    /// It took longer than a time-out.
    Timeout,
    /// What came was not HTTP.
    Invalid,
    /// The answer had a status that is asked for again.
    Status,
}

/// The tries of an exchange after its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// How many for each reason, in the order of [`RetryReason::ALL`].
    pub by_reason: [u8; 5],
    /// Whether the service's budget left none.
    pub over_budget: bool,
}

/// The class of an exchange in summaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Everything that is neither of the others.
    Successful,
    /// A refusal by flood guard, auth, access, limit or body size.
    Blocked,
    /// Status 500 and above, whoever decided it.
    Error,
}

impl Record {
    /// Status 500 and above, whoever decided it.
    pub fn is_error(&self) -> bool {
        self.status >= 500
    }

    /// The method in labels and roll-ups: those of RFC 9110 and PATCH. A client may send any word, so every other one is `OTHER`.
    pub fn method_label(&self) -> &'static str {
        match self.method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            Method::TRACE => "TRACE",
            Method::CONNECT => "CONNECT",
            _ => "OTHER",
        }
    }

    /// About how many bytes of memory it holds; shared texts count for their owner.
    pub fn bytes(&self) -> u64 {
        let boxed = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let texts = boxed(&self.client_request_id) + boxed(&self.host) + boxed(&self.user_agent) + self.path.len();
        (size_of::<Self>() + texts) as u64
    }

    /// The class in summaries.
    pub fn outcome(&self) -> Outcome {
        if self.is_error() {
            Outcome::Error
        } else if self.blocked {
            Outcome::Blocked
        } else {
            Outcome::Successful
        }
    }
}

impl RetryReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Closed, Self::Timeout, Self::Invalid, Self::Status];

    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid",
            Self::Status => "status",
        }
    }
}

impl Retries {
    /// Counts one.
    pub fn count(&mut self, reason: RetryReason) {
        let count = &mut self.by_reason[reason as usize];
        *count = count.saturating_add(1);
    }
}

impl CacheResult {
    /// Every one, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Hit, Self::Miss, Self::Stale, Self::Revalidated, Self::Bypass, Self::Collapsed];

    /// The word in log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Bypass => "bypass",
            Self::Collapsed => "collapsed",
        }
    }
}
