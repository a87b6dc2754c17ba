//! From the request that the front has read to the exchange that Pingora's hooks work with.
//! Pingora makes an exchange without telling which request it is for, so what is known travels beside it, in the thread that polls it.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use super::connection::Connection;
use super::exchange::Exchange;
use super::parts::Parts;

/// What is known of a request when Pingora is entered.
pub(super) enum Current {
    /// The connection it came on.
    Read {
        connection: Arc<Connection>,
        /// Whether the front has asked the flood guard.
        is_counted: bool,
    },
    /// It was asked for admission already.
    Begun(Box<Exchange>),
}

thread_local! {
    /// Of the request that is being polled, until an exchange takes it.
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// Runs one request of a connection; also whether it became an exchange.
pub(super) async fn with_current<F: Future>(current: Current, request: F) -> (F::Output, bool) {
    let mut request = pin!(request);
    // Set anew for every poll, whichever thread that is on, so what another request has left there is never seen.
    let mut waiting = Some(current);
    let output = std::future::poll_fn(|cx| {
        CURRENT.set(waiting.take());
        let polled = request.as_mut().poll(cx);
        waiting = CURRENT.take();
        polled
    })
    .await;
    let became_exchange = waiting.is_none();
    if let Some(Current::Begun(mut exchange)) = waiting {
        // Pingora has refused its header; that is counted, and makes no record.
        exchange.makes_no_record();
    }
    (output, became_exchange)
}

/// The exchange of the request that is being polled. Without one it is an exchange in the background, which inherits its connection.
pub(super) fn begin_exchange(parts: &Arc<Parts>) -> Box<Exchange> {
    match CURRENT.take() {
        Some(Current::Begun(exchange)) => exchange,
        Some(Current::Read { connection, is_counted }) => Box::new(Exchange::new(parts, Some(connection), is_counted)),
        None => Box::new(Exchange::new(parts, None, false)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::gateway::connection::{Accepted, Census};

    #[tokio::test]
    async fn a_request_that_became_no_exchange_is_told_apart() {
        let accepted = Accepted {
            peer: "192.0.2.1:1".parse().unwrap(),
            scheme: "http",
            redirects_to_https: false,
            idle_until: Arc::new(AtomicU64::new(u64::MAX)),
        };
        let connection = Connection::open(&Arc::new(Census::default()), &accepted, 9, None).unwrap();
        let current = || Current::Read { connection: Arc::clone(&connection), is_counted: true };
        let (taken, began) = with_current(current(), async { CURRENT.take() }).await;
        assert!(matches!(taken, Some(Current::Read { is_counted: true, .. })) && began);
        let ((), began) = with_current(current(), async {}).await;
        assert!(!began);
        assert!(CURRENT.take().is_none());
    }
}
