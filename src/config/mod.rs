//! The configuration: one YAML file, read in two passes, strict.
//! The first pass (`tree.rs`) knows positions and duplicates, the second reads each entry into the types of `schema.rs`.
//! Not here: what a configuration compiles to (`runtime`).

mod pattern;
mod places;
mod problems;
mod rate;
mod schema;
mod store_url;
mod units;

use std::path::Path;

pub use pattern::{HostPattern, Pattern, Segment};
pub use places::Places;
pub use problems::{Problem, Problems, did_you_mean};
pub use rate::{Algorithm, Limit, Mode, Per, Rate, Window};
pub use schema::*;
pub use store_url::StoreUrl;
pub use units::{Size, Span};

/// Reads and checks a configuration file; paths in it become absolute.
///
/// # Errors
/// Every problem that was found.
pub fn load(path: &Path) -> Result<Config, Problems> {
    Err(Problems::of(path.display().to_string(), "not built"))
}

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
        Self { keys: KeyRule::Required, timeout: Span::seconds(30), body_max: Size(10 << 20), limit: Vec::new() }
    }
}
impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Span::seconds(1),
            tls: Span::seconds(5),
            response: Span::seconds(15),
            between_bytes: Span::seconds(15),
            write: Span::seconds(15),
            idle: Span::seconds(60),
        }
    }
}
impl Default for CachePolicy {
    fn default() -> Self {
        Self { ttl: Span::default(), max: None, shared: false, body_max: Size(1 << 20) }
    }
}
impl Default for CacheStore {
    fn default() -> Self {
        Self { memory: Size(64 << 20) }
    }
}
impl Default for Log {
    fn default() -> Self {
        Self {
            store: StoreUrl::None,
            json: JsonLines::None,
            queue: 65_536,
            flush: Flush::default(),
            client_ip: ClientIp::Full,
            query: QueryLog::None,
        }
    }
}
impl Default for Flush {
    fn default() -> Self {
        Self { rows: 1_000, age: Span(std::time::Duration::from_millis(200)) }
    }
}
impl Instance {
    const fn default_weight() -> u16 {
        1
    }
}
impl HealthCheck {
    const fn default_every() -> Span {
        Span::seconds(5)
    }
    const fn default_timeout() -> Span {
        Span::seconds(1)
    }
    const fn default_healthy_after() -> u16 {
        2
    }
    const fn default_unhealthy_after() -> u16 {
        3
    }
}
impl KeyPlace {
    fn defaults() -> Vec<Self> {
        vec![Self::Header(http::HeaderName::from_static("x-api-key")), Self::Bearer]
    }
}
impl std::fmt::Debug for Digest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in &self.0[..4] {
            write!(out, "{byte:02x}")?;
        }
        out.write_str("...")
    }
}
crate::placeholder_serde!(Threads, FloodGuard, KeyPlace, KeyRule, JsonLines, Digest);
