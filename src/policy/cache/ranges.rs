//! `partial: true`: a part of an answer that an instance sent to a request for a range (RFC 9110 section 15.3.7) is stored where the
//! whole might be, and parts that are there answer requests for what is in them (RFC 9111 section 3.3).
//! Not here: how parts are put together (`cache/parts.rs`).

use std::time::SystemTime;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, SET_COOKIE};
use pingora_http::{RequestHeader, ResponseHeader};

use super::rule::CacheRule;
use super::turn::CacheTurn;
use crate::cache::freshness::Asked;
use crate::cache::range::content_range;
use crate::cache::{Part, store};
use crate::config::SetCookie;

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
        turn.fills_part = false;
        let key = turn.part_of.as_ref().filter(|_| answer.status == StatusCode::PARTIAL_CONTENT)?;
        let (range, length) = content_range(answer.headers.get(CONTENT_RANGE)?)?;
        let mut head = answer.clone();
        let told = head.remove_header(&CONTENT_LENGTH);
        if told.is_some_and(|told| told.as_bytes() != range.len().to_string().as_bytes()) {
            return None;
        }
        // Judged like the whole, but for the bytes that come.
        head.set_status(StatusCode::OK).ok()?;
        head.remove_header(&CONTENT_RANGE);
        head.insert_header(CONTENT_LENGTH, range.len()).ok()?;
        let asked = Asked::of(&request.headers, turn.wishes.no_store, turn.authorization_reaches_instance);
        let judged = self.judge(turn, None, asked, &head, false, now).inspect_err(|reason| store().refuses(*reason));
        let (freshness, reservation, tags) = judged.ok().filter(|(freshness, ..)| !freshness.remaining.is_zero())?;
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
