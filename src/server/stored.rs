//! Stored answers as an operator names and sees them: by the URL that clients ask for, with what is known of each.
//! Not here: how they are found and purged (`cache`).

use std::time::Duration;

use http::{Method, Uri};

use crate::admin::{CacheCount, CacheDiskStatus, CacheStatus, CachedEntry, CachedUrl};
use crate::cache::{self, DiskStats, Told};
use crate::config::did_you_mean;
use crate::metrics::{CacheDiskState, CacheState, Metrics};
use crate::policy::path;
use crate::record::CacheResult;
use crate::runtime::Runtime;

/// Routes that are named where a wrong one was asked for.
const ROUTES_NAMED: usize = 10;

/// A URL as stored answers are found by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Lower case, with the port where one is written.
    pub(super) host: String,
    /// The normalised path, with the query that counts.
    pub(super) path_and_query: String,
    /// The route that answers GET for it.
    pub(super) route: Option<String>,
}

impl Target {
    /// What a client's request for this URL is looked up by, as its route says which parts of a query count.
    ///
    /// # Errors
    /// Why it is no such URL.
    pub(super) fn of(url: &str, runtime: &Runtime) -> Result<Self, String> {
        let (uri, host, path) = read(url)?;
        let name = uri.host().unwrap_or_default().to_ascii_lowercase();
        let found = runtime.routes.find(&name, &path, &Method::GET).ok();
        let rule = found.as_ref().and_then(|found| found.route.cache.as_ref());
        let counts =
            rule.zip(uri.query()).and_then(|(rule, query)| rule.query_that_counts(&Method::GET, query.as_bytes()));
        let query = match &counts {
            Some(counts) if counts.is_empty() => String::new(),
            Some(counts) => format!("?{}", String::from_utf8_lossy(counts)),
            None => uri.query().map_or(String::new(), |query| format!("?{query}")),
        };
        let route = found.map(|found| found.route.endpoint.to_string());
        Ok(Self { host, path_and_query: path + &query, route })
    }

    /// The beginning of such URLs.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn prefix(url: &str) -> Result<Self, String> {
        let (uri, host, path) = read(url)?;
        if uri.query().is_some() {
            return Err(format!(
                "`{url}`: a prefix is of the path, and covers every query: leave out what follows `?`"
            ));
        }
        Ok(Self { host, path_and_query: path, route: None })
    }
}

fn read(url: &str) -> Result<(Uri, String, String), String> {
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host: http://HOST/PATH"))?;
    let host = authority.as_str().to_ascii_lowercase();
    let path = path::normalise(uri.path().as_bytes()).map_err(|why| format!("`{url}`: {why}"))?.into_owned();
    Ok((uri, host, path))
}

/// The series of the store.
pub(super) fn state() -> CacheState {
    let (stored, ages) = (cache::store().stats(), cache::store().ages());
    CacheState {
        entries: stored.entries,
        keys: stored.keys,
        bytes: (stored.bytes, stored.bytes_max),
        filling_bytes: stored.filling_bytes,
        stored: stored.stored,
        evictions: stored.evictions,
        purged: stored.purged,
        at_hand: stored.at_hand,
        refused: cache::store().refused(),
        disk: stored.disk.map(|disk| CacheDiskState {
            entries: disk.entries,
            bytes: (disk.bytes, disk.bytes_max),
            index_bytes: (disk.index_bytes, disk.index_bytes_max),
            queued_bytes: (disk.queued_bytes, disk.queued_bytes_max),
            hits: disk.hits,
            loads: disk.loads,
            writes: disk.writes,
            dropped_writes: disk.dropped,
            corrupt: disk.corrupt,
            evictions: disk.evictions,
            errors: disk.errors,
        }),
        ages: ages.buckets,
        served: ages.sum,
    }
}

/// The cache as a whole.
pub(super) fn status(metrics: &Metrics, runtime: &Runtime, top: usize) -> CacheStatus {
    let totals = metrics.cache_totals();
    let of = |results: &[CacheResult]| {
        let found = totals.iter().filter(|(result, ..)| results.contains(result));
        found.fold((0, 0), |(requests, bytes), (_, more, more_bytes)| (requests + more, bytes + more_bytes))
    };
    use CacheResult::{Collapsed, Hit, Miss, Revalidated, Stale};
    let (found, _) = of(&[Hit, Stale, Collapsed]);
    let (looked_up, _) = of(&[Hit, Stale, Collapsed, Miss, Revalidated]);
    let (stored, (largest, hottest)) = (cache::store().stats(), cache::store().top(top));
    let told = |told: Vec<Told>| told.into_iter().map(|told| entry(told, runtime, false)).collect();
    CacheStatus {
        entries: stored.entries,
        keys: stored.keys,
        bytes: stored.bytes,
        bytes_max: stored.bytes_max,
        filling_bytes: stored.filling_bytes,
        filling_bytes_max: stored.filling_bytes_max,
        stored: stored.stored,
        evictions: stored.evictions,
        purged: stored.purged,
        results: totals
            .iter()
            .map(|(result, requests, bytes)| (result.as_str(), CacheCount { requests: *requests, bytes: *bytes }))
            .collect(),
        hit_ratio: (looked_up > 0).then(|| found as f64 / looked_up as f64),
        saved_bytes: of(&[Hit, Stale, Collapsed, Revalidated]).1,
        refused: cache::store().refused().into_iter().filter(|(_, count)| *count > 0).collect(),
        disk: stored.disk.map(on_disk),
        largest: told(largest),
        hottest: told(hottest),
    }
}

fn on_disk(disk: DiskStats) -> CacheDiskStatus {
    CacheDiskStatus {
        state: disk.state,
        entries: disk.entries,
        bytes: disk.bytes,
        bytes_max: disk.bytes_max,
        index_bytes: disk.index_bytes,
        index_bytes_max: disk.index_bytes_max,
        queued: disk.queued,
        queued_bytes: disk.queued_bytes,
        queued_bytes_max: disk.queued_bytes_max,
        hits: disk.hits,
        loads: disk.loads,
        writes: disk.writes,
        dropped_writes: disk.dropped,
        corrupt: disk.corrupt,
        evictions: disk.evictions,
        errors: disk.errors,
    }
}

/// Why nothing of such a route is purged.
pub(super) fn no_route(name: &str, runtime: &Runtime) -> String {
    let known = runtime.endpoints.iter().filter(|route| route.cache.is_some()).map(|route| &*route.endpoint);
    let hint = did_you_mean(name, known.clone());
    let some: Vec<&str> = known.take(ROUTES_NAMED).collect();
    let known = match some[..] {
        _ if !hint.is_empty() => hint,
        [] => "; no route has a cache".to_owned(),
        _ => format!("; routes with a cache: {}", some.join(", ")),
    };
    format!("there is no route `{name}`{known}")
}

/// What is stored of a URL.
///
/// # Errors
/// Why it is none.
pub(super) fn find(url: &str, runtime: &Runtime) -> Result<CachedUrl, String> {
    let target = Target::of(url, runtime)?;
    let told = cache::store().tell(&target.host, &target.path_and_query);
    let entries: Vec<CachedEntry> = told.into_iter().map(|told| entry(told, runtime, true)).collect();
    let route = target.route;
    let why = match (&route, entries.len()) {
        (_, 1) => "one answer is stored".to_owned(),
        (_, 2..) => format!("{} answers are stored", entries.len()),
        (None, _) => "nothing is stored: no route matches a GET of this URL".to_owned(),
        (Some(route), _) if runtime.route(route).is_some_and(|route| route.cache.is_none()) => {
            format!("nothing is stored: the route {route} has no cache")
        }
        (Some(route), _) => {
            format!("nothing is stored, although the route {route} has a cache: Cache-Status of an answer says why")
        }
    };
    Ok(CachedUrl { url: url.to_owned(), route, why, entries })
}

fn entry(told: Told, runtime: &Runtime, with_headers: bool) -> CachedEntry {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let (state, ttl_seconds) = match told.fresh {
        _ if told.always_confirmed => ("confirmed", None),
        Ok(left) => ("fresh", Some(seconds(left))),
        // A second that has begun counts: what is stale has a number below zero.
        Err(past) => ("stale", Some(-seconds(past).saturating_add(1))),
    };
    let overrides =
        runtime.route(&told.endpoint).and_then(|route| route.cache.as_ref()).is_some_and(|rule| rule.overrides());
    CachedEntry {
        url: told.url,
        route: told.endpoint.to_string(),
        consumer: told.consumer,
        stored: told.stored.as_str(),
        variant: told.variant,
        status: told.status,
        state,
        ttl_seconds,
        why: if overrides && !told.purged { "the route: override".to_owned() } else { told.why },
        age_seconds: told.age.as_secs(),
        stale_while_revalidate_seconds: told.stale_seconds.0,
        stale_if_error_seconds: told.stale_seconds.1,
        bytes: told.bytes.0,
        whole: told.whole,
        body_bytes: told.bytes.1,
        hits: told.hits,
        tags: told.tags,
        headers: if with_headers { told.headers } else { Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_keys_are_made() {
        let prefix = Target::prefix("http://Example.com:80/a/../b/").unwrap();
        assert_eq!((prefix.host.as_str(), prefix.path_and_query.as_str()), ("example.com:80", "/b/"));
        for wrong in ["/only/a/path", "http://a/b?c", "http://a/%2f"] {
            assert!(Target::prefix(wrong).is_err(), "{wrong}");
        }
    }
}
