//! The series of compressed answers, read at scrape time: how many, and what that saves.
//! Not here: which answers are compressed (`policy/compress`).

use prometheus::proto::MetricFamily;

use super::family::{counter, gauge};

/// What was compressed since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompressionState {
    /// Answers that are being compressed.
    pub now: u64,
    /// Answers that were, whole.
    pub answers: u64,
    /// Bytes of their bodies, before and after.
    pub bytes: (u64, u64),
    /// Answers that were sent as they are because too many were being compressed.
    pub left: u64,
}

pub(super) fn families(state: &CompressionState) -> [MetricFamily; 5] {
    [
        gauge("tollgate_compress_answers_now", "Answers that are being compressed.", state.now as f64),
        counter("tollgate_compress_answers_total", "Answers that were compressed.", state.answers as f64),
        counter("tollgate_compress_bytes_in_total", "Bytes of bodies before.", state.bytes.0 as f64),
        counter("tollgate_compress_bytes_out_total", "Bytes of bodies after.", state.bytes.1 as f64),
        counter(
            "tollgate_compress_left_total",
            "Answers sent as they are because too many were being compressed.",
            state.left as f64,
        ),
    ]
}
