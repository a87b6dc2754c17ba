//! An upgraded connection, which lasts as long as both ends like: until its instance is drained. Then it has a time to end by itself.
//! Everything else at a drained instance ends by itself, or breaks its own bounds.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::connection::Connection;
use crate::upstream::Try;

/// The watch over an upgraded connection, which ends with the exchange.
pub(super) struct Tunnel(AbortHandle);

impl Tunnel {
    /// Ends the client's connection when the time of its instance's tunnels is over. Inside of the data path's runtime only.
    pub fn watch(connection: &Arc<Connection>, instance: &Try) -> Self {
        // The watch must not keep the connection open, nor counted.
        let (connection, over) = (Arc::downgrade(connection), instance.tunnels_end());
        let watch = tokio::spawn(async move {
            over.await;
            if let Some(connection) = connection.upgrade() {
                connection.ends();
            }
        });
        Self(watch.abort_handle())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.abort();
    }
}
