//! What the data path works with, for the life of the process: configuration, log, metrics, connections.
//! Not here: what belongs to one exchange (`exchange.rs`) or one connection (`connection.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pingora_core::apps::HttpServerOptions;

use super::connection::Census;
use crate::metrics::Metrics;
use crate::record::NO_ENDPOINT;
use crate::request_log::RequestLog;
use crate::runtime::Live;

/// What the data path works with, for the life of the process.
pub struct Parts {
    /// The configuration that is in force.
    pub live: Arc<Live>,
    /// Series about exchanges.
    pub metrics: Arc<Metrics>,
    /// Where records go.
    pub log: RequestLog,
    /// Open and busy connections.
    pub census: Arc<Census>,
    /// Bounds on HTTP/2 connections.
    pub http2: HttpServerOptions,
    draining: AtomicBool,
    exchanges: AtomicUsize,
    pub(super) no_endpoint: Arc<str>,
}

impl Parts {
    /// The parts of a gateway that serves what `live` has.
    pub fn new(live: Arc<Live>, metrics: Arc<Metrics>, log: RequestLog) -> Self {
        let mut http2 = HttpServerOptions::default();
        http2.h2_idle_timeout = Some(live.load().config.connections.idle_timeout.0);
        Self {
            live,
            metrics,
            log,
            census: Arc::default(),
            http2,
            draining: AtomicBool::new(false),
            exchanges: AtomicUsize::new(0),
            no_endpoint: NO_ENDPOINT.into(),
        }
    }

    /// From now on every answer tells its client to close the connection.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Exchanges that have begun and not ended.
    pub fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::Acquire)
    }

    pub(super) fn exchange_begins(&self) {
        self.exchanges.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn exchange_ends(&self) {
        self.exchanges.fetch_sub(1, Ordering::AcqRel);
    }
}
