//! What the cache did in one exchange so far, in the order of Pingora's phases: `enable`, `hit`, `miss`, `keep_not_modified`,
//! `serves_stale`, `restore`, and at last `result`. The exchange keeps it from phase to phase.
//! Not here: whether an answer is stored (`rule.rs`), and what the client is told (`status.rs`).

use std::time::SystemTime;

use http::header::{AGE, HeaderValue, RANGE, SET_COOKIE};
use http::{Method, StatusCode};
use pingora_cache::{CacheKey, CacheMeta, CacheOptionOverrides, CachePhase, ForcedFreshness, NoCacheReason};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::request::{Bypass, bypass};
use super::rule::{ALWAYS_CONFIRMED, CacheRule};
use crate::cache::cache_control::{Directives, Wishes};
use crate::cache::crowd::{self, Refresh};
use crate::cache::freshness::Unstorable;
use crate::cache::range::Wanted;
use crate::cache::{Collapsed, Lack, store};
use crate::record::CacheResult;

/// What the cache did in one exchange so far.
#[derive(Debug, Default)]
pub struct CacheTurn {
    pub(super) consulted: Consulted,
    pub(super) authorization_reaches_instance: bool,
    pub(super) asked_at: Option<SystemTime>,
    pub(super) stamp: u64,
    pub(super) wishes: Wishes,
    /// The answer to the request as it is sent to an instance is one that can be stored whole.
    pub(super) whole: bool,
    /// What was found was not good enough.
    pub(super) stale: bool,
    /// Why what is stored of the key was not found; none where nothing is.
    pub(super) lack: Option<Lack>,
    /// A stale answer was served without asking, or after asking in vain.
    pub(super) served_stale: bool,
    /// Why an instance could not say something better than what was stale.
    pub(super) failed_status: Option<StatusCode>,
    /// Another request asked the instance.
    pub(super) collapsed: bool,
    pub(super) not_modified: Option<Box<ResponseHeader>>,
    pub(super) upstream_age: bool,
    /// Of an answer that is stored without them.
    pub(super) cookies: Vec<HeaderValue>,
    /// An answer is being stored.
    pub(super) fills: bool,
    /// What is asked for is a range of an answer with this key, and parts of it may be stored.
    pub(super) part_of: Option<CacheKey>,
    /// A part of an answer is being stored.
    pub(super) fills_part: bool,
    /// Why a part was not stored.
    pub(super) part_refused: Option<&'static str>,
    /// This exchange only refreshes what is stored.
    refreshes: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Consulted {
    #[default]
    NotYet,
    No(Bypass),
    Yes,
}

impl CacheTurn {
    /// Of an exchange in the background, which refreshes what is stored.
    pub fn refreshing() -> Self {
        Self { refreshes: true, ..Self::default() }
    }

    /// In `request_cache_filter`: turns Pingora's cache phases on where the request may be answered from the store.
    pub fn enable(&mut self, rule: &CacheRule, session: &mut Session, key: &mut CacheKey, authorization: bool) {
        let has_body = !session.is_body_empty();
        let request = session.req_header();
        if let Some(reason) = bypass(request, has_body, &rule.methods) {
            self.consulted = Consulted::No(reason);
            return;
        }
        self.consulted = Consulted::Yes;
        self.authorization_reaches_instance = authorization;
        self.asked_at = Some(SystemTime::now());
        self.stamp = store().stamp();
        self.wishes = Wishes::of(&request.headers);
        // A refresh is always of the whole, whatever the request that found it stale asked for.
        self.whole = self.refreshes || (request.method == Method::GET && !request.headers.contains_key(RANGE));
        if rule.partial
            && request.method == Method::GET
            && let Some(wanted) = Wanted::of(&request.headers)
        {
            key.extensions.insert(wanted);
            self.part_of = Some(key.clone());
        }
        // Who will not have something to share keeps nobody waiting.
        let may_share = self.whole && !self.refreshes && !self.wishes.no_store && !authorization;
        let shares = may_share && !store().uncollapsible.knows(key);
        let mut bounds = CacheOptionOverrides::default();
        bounds.wait_timeout = Some(crowd::WAIT_MAX);
        session.cache.enable(store(), None, None, shares.then(crowd::lock), Some(bounds));
    }

    /// In `cache_hit_filter`: whether what was found is used. Where it is stale and another one has to be fetched in the
    /// background, the right to do so comes along.
    pub fn hit(
        &mut self,
        rule: &CacheRule,
        session: &mut Session,
        meta: &CacheMeta,
        is_fresh: bool,
    ) -> (Option<ForcedFreshness>, Option<Refresh>) {
        let wishes = if rule.obeys_wishes { self.wishes } else { Wishes::default() };
        if is_fresh && (wishes == Wishes::default() || !wants_fresher(&wishes, meta, SystemTime::now())) {
            self.collapsed = meta.extensions().get::<Collapsed>().is_some() || session.cache.lock_duration().is_some();
            return (None, None);
        }
        if is_fresh {
            self.stale = true;
            let otherwise = if self.whole { ForcedFreshness::ForceExpired } else { ForcedFreshness::ForceMiss };
            return (Some(otherwise), None);
        }
        let now = SystemTime::now();
        let fresher_wanted = wishes.no_cache || wishes.max_age.is_some() || wishes.min_fresh.is_some();
        if !self.refreshes && !fresher_wanted {
            let while_revalidating = meta.serve_stale_while_revalidate(now);
            if while_revalidating || may_be_stale(&wishes, meta, now) {
                self.served_stale = true;
                let refresh = while_revalidating.then(|| Refresh::begin(session.cache.cache_key())).flatten();
                return (Some(ForcedFreshness::ForceFresh), refresh);
            }
        }
        self.stale = true;
        if meta.fresh_until() == ALWAYS_CONFIRMED {
            // Each of them has to ask by itself: waiting for another one would be for nothing.
            session.cache.set_cache_lock(None, None);
        }
        if self.whole {
            (None, None)
        } else if meta.serve_stale_if_error(now) {
            // Then it is confirmed by a whole GET, or what is stale could not be used when that fails.
            self.whole = true;
            (None, None)
        } else {
            (Some(ForcedFreshness::ForceMiss), None)
        }
    }

    /// In `cache_miss`: HEAD and ranges go to the instance as they are, or it would be asked for the whole answer.
    pub fn miss(&mut self, session: &mut Session) {
        if !self.stale {
            self.lack = store().lack(session.cache.cache_key(), &session.req_header().headers);
        }
        if self.whole {
            session.cache.cache_miss();
        } else {
            if self.part_of.is_none() {
                store().refuses(Unstorable::NotWhole);
            }
            session.cache.disable(NoCacheReason::Custom(Unstorable::NotWhole.as_str()));
        }
    }

    /// In `proxy_upstream_filter`: whether the client only wants what is stored, and there is nothing that would do.
    pub fn may_not_ask(&self, rule: &CacheRule) -> bool {
        rule.obeys_wishes && self.wishes.only_if_cached && self.consulted == Consulted::Yes
    }

    /// In `upstream_response_filter`: Pingora merges five headers of a 304 only, so `decide` merges the rest.
    pub fn keep_not_modified(&mut self, session: &Session, answer: &ResponseHeader) {
        if answer.status == StatusCode::NOT_MODIFIED && session.cache.maybe_cache_meta().is_some() {
            self.not_modified = Some(Box::new(answer.clone()));
        }
    }

    /// In `should_serve_stale`: an instance failed, with a status where it answered at all. True: what is stale is used, where
    /// its time is not over (which Pingora looks at).
    pub fn serves_stale(&mut self, status: Option<StatusCode>) -> bool {
        if self.refreshes {
            return false;
        }
        self.served_stale = true;
        self.failed_status = status;
        true
    }

    /// In `error_while_proxy`: a fill that broke off is given up, as another try cannot go on with it; that goes without the cache.
    pub fn broke_off(&mut self, session: &mut Session) {
        if std::mem::take(&mut self.fills) && session.response_written().is_none() && session.cache.enabled() {
            session.cache.disable(NoCacheReason::UpstreamError);
        }
    }

    /// In `response_filter`: gives the client whose request fetched or confirmed what is stored what only it gets.
    pub fn restore(&mut self, session: &Session, response: &mut ResponseHeader) {
        let is_new = matches!(session.cache.phase(), CachePhase::Miss | CachePhase::Expired);
        if let Some(meta) = session.cache.maybe_cache_meta().filter(|_| is_new && self.upstream_age) {
            // Fails only for what is no header value.
            let _ = response.insert_header(AGE, meta.age().as_secs());
        }
        for cookie in self.cookies.drain(..) {
            let _ = response.append_header(SET_COOKIE, cookie);
        }
    }

    /// For the record; `None` where the request never came as far as the cache.
    pub fn result(&self, phase: CachePhase) -> Option<CacheResult> {
        match (self.consulted, phase) {
            (Consulted::NotYet, _) => None,
            (Consulted::No(_), _) => Some(CacheResult::Bypass),
            (Consulted::Yes, _) if self.served_stale => Some(CacheResult::Stale),
            (Consulted::Yes, CachePhase::Hit) if self.collapsed => Some(CacheResult::Collapsed),
            (Consulted::Yes, CachePhase::Hit) => Some(CacheResult::Hit),
            (Consulted::Yes, CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_)) => {
                Some(CacheResult::Revalidated)
            }
            (Consulted::Yes, _) => Some(CacheResult::Miss),
        }
    }
}

/// Whether a fresh answer is not what the request wishes for. An answer that does not change while it is fresh is confirmed
/// only for who insists (RFC 8246 section 2).
fn wants_fresher(wishes: &Wishes, meta: &CacheMeta, now: SystemTime) -> bool {
    let left = meta.fresh_until().duration_since(now).unwrap_or_default().as_secs();
    let too_old = wishes.max_age.is_some_and(|max| meta.age().as_secs() > max || max == 0);
    let reloads = too_old && !(wishes.max_age == Some(0) && Directives::of(meta.headers()).immutable);
    wishes.no_cache || reloads || wishes.min_fresh.is_some_and(|min| left < min)
}

/// Whether the request takes an answer that has been stale for so long, and the upstream does not forbid it.
fn may_be_stale(wishes: &Wishes, meta: &CacheMeta, now: SystemTime) -> bool {
    let stale_for = now.duration_since(meta.fresh_until()).unwrap_or_default().as_secs();
    wishes.max_stale.is_some_and(|max| stale_for <= max)
        && meta.fresh_until() != ALWAYS_CONFIRMED
        && !Directives::of(meta.headers()).forbids_stale()
}
