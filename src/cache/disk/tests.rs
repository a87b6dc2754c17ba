//! Files, index, queue and writer together, without memory above them.
//! A thread writes as in the gateway; the tests wait for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pingora_cache::CacheMeta;
use pingora_http::ResponseHeader;

use super::super::entry::{Body, CHUNK_BYTES, Entry};
use super::super::tags::Tags;

/// An answer with this body.
pub(super) fn entry(body: &[u8]) -> Entry {
    let now = SystemTime::now();
    let head = ResponseHeader::build(200, None).unwrap();
    let meta = CacheMeta::new(now + Duration::from_secs(600), now, 0, 0, head);
    let chunks = body.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
    Entry::new(&meta, Arc::new(Body::of(chunks)), Tags::default())
}
