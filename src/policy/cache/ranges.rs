//! `partial: true`: a part of an answer that an instance sent to a request for a range (RFC 9110 section 15.3.7) is stored where the
//! whole might be, and parts that are there answer requests for what is in them (RFC 9111 section 3.3).
//! Not here: how parts are put together (`cache/parts.rs`).

use std::time::SystemTime;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, SET_COOKIE};
use pingora_http::{RequestHeader, ResponseHeader};

use super::answer::remove_hop_by_hop;
use super::rule::CacheRule;
use super::turn::CacheTurn;
use crate::cache::freshness::{Asked, Unstorable};
use crate::cache::range::content_range;
use crate::cache::{Part, store};
use crate::config::SetCookie;

/// Digests of what is sent, not of the whole (RFC 9530 section 2, RFC 2616 section 14.15).
const OF_THE_PART: [&str; 2] = ["content-digest", "content-md5"];

impl CacheRule {
    /// In `upstream_response_filter`: the part to be stored of an answer, where it is one that may be. What contradicts itself, or is
    /// not fresh, is not stored. `request` is the client's.
    pub fn part(
        &self,
        turn: &mut CacheTurn,
        request: &RequestHeader,
        answer: &ResponseHeader,
        now: SystemTime,
    ) -> Option<Part> {
        (turn.fills_part, turn.part_refused) = (false, None);
        let key = turn.part_of.as_ref().filter(|_| answer.status == StatusCode::PARTIAL_CONTENT)?;
        let refused = || store().refuses(Unstorable::NotWhole);
        let (range, length) = content_range(&answer.headers).or_else(|| {
            refused();
            None
        })?;
        let mut head = answer.clone();
        // First: what `Connection` names must not be what is set below.
        remove_hop_by_hop(&mut head);
        let told = head.remove_header(&CONTENT_LENGTH);
        let contradicts = told.is_some_and(|told| told.as_bytes() != range.len().to_string().as_bytes());
        let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        if contradicts || kind.to_ascii_lowercase().starts_with(b"multipart/byteranges") {
            refused();
            return None;
        }
        for name in OF_THE_PART {
            head.remove_header(name);
        }
        // Judged like the whole, but for the bytes that come.
        head.set_status(StatusCode::OK).ok()?;
        head.remove_header(&CONTENT_RANGE);
        head.insert_header(CONTENT_LENGTH, range.len()).ok()?;
        let asked = Asked::of(&request.headers, turn.wishes.no_store, turn.authorization_reaches_instance);
        let judged = self.judge(turn, None, asked, &head, false, now);
        // What is stale can't be confirmed by a part.
        let judged =
            judged.and_then(|judged| if judged.0.remaining.is_zero() { Err(Unstorable::Stale) } else { Ok(judged) });
        let judged = judged.inspect_err(|reason| {
            store().refuses(*reason);
            turn.part_refused = Some(reason.as_str());
        });
        let (freshness, reservation, tags) = judged.ok()?;
        head.insert_header(CONTENT_LENGTH, length).ok()?;
        self.hide_tags(&mut head);
        if self.set_cookie != SetCookie::Store {
            head.remove_header(&SET_COOKIE);
        }
        let mut meta = self.meta(turn, request, head, freshness, (reservation, tags), now);
        if let Some(variance) = Self::variance(&meta, request) {
            meta.set_variance(variance);
        }
        let part = Part::new(store(), key, &meta, range, length)?;
        turn.fills_part = true;
        Some(part)
    }
}
