//! What holds for fields that are left out: values that are safe in production.
//! Fields without a value here are required, or off.

use std::time::Duration;

use super::access::KeyRule;
use super::schema::*;
use super::store_url::StoreUrl;
use super::units::{Size, Span};

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_delay: Span::default(), grace: Span::seconds(30) }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            total_max: 65_536,
            per_client_max: 4_096,
            header_timeout: Span::seconds(10),
            idle_timeout: Span::seconds(60),
            header_max: Size(64 << 10),
            body_timeout: Span::seconds(60),
        }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            keys: KeyRule::Required,
            timeout: Span::seconds(30),
            body_max: Size(10 << 20),
            limit: Vec::new(),
            retry: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Span::seconds(1),
            tls: Span::seconds(5),
            response: Span::seconds(15),
            between_bytes: Span::seconds(15),
            rate_min: Size(100),
            write: Span::seconds(15),
            idle: Span::seconds(60),
            drain: Span::seconds(300),
        }
    }
}

impl Default for CacheStore {
    fn default() -> Self {
        Self { memory: Size(64 << 20), disk: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            store: StoreUrl::None,
            json: JsonLines::None,
            queue: Self::default_queue(),
            flush: Flush::default(),
            spool: Spool::Usual,
            spool_max: Self::default_spool_max(),
            spool_full: SpoolFull::DropNew,
            retention: Retention::default(),
            client_ip: ClientIp::Full,
            query: QueryLog::None,
        }
    }
}

impl Log {
    pub(super) const fn default_queue() -> usize {
        65_536
    }

    pub(super) const fn default_spool_max() -> Size {
        Size(1 << 30)
    }
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Span::seconds(days * 86_400);
        Self { requests: days(30), minutes: days(90), hours: days(730), size: Size(10 << 30) }
    }
}

impl Default for Flush {
    fn default() -> Self {
        Self { rows: 4_000, age: Span(Duration::from_millis(200)) }
    }
}

impl Instance {
    /// The instance at `host:port`, with nothing else said about it.
    pub fn at(address: &str) -> Self {
        Self { address: address.to_owned(), weight: Self::default_weight(), backup: false }
    }

    pub(super) const fn default_weight() -> u16 {
        1
    }
}

impl Key {
    /// A key of its own consumer, for ever.
    pub const fn new(sha256: Digest) -> Self {
        Self { sha256, consumer: None, plan: None, expires: None, labels: Vec::new() }
    }
}

impl KeyPlace {
    /// The parameter of the query string, where this is one.
    pub fn query(&self) -> Option<&str> {
        match self {
            Self::Query(name) => Some(name),
            Self::Header(_) | Self::Bearer => None,
        }
    }

    pub(super) fn defaults() -> Vec<Self> {
        vec![Self::Header(http::HeaderName::from_static("x-api-key")), Self::Bearer]
    }
}
