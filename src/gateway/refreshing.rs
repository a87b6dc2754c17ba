//! A stale answer that was served is refreshed in the background: once more through Pingora's phases, as a request of its own
//! that the client does not wait for. It was admitted with the client's request: it counts against nobody's limit, and makes
//! no record. Not here: when that is done, and that only one at a time does it (`policy/cache`, `cache/crowd.rs`).

use std::sync::Arc;

use pingora_proxy::Session;
use pingora_proxy::subrequest::Ctx;

use super::connection::Connection;
use super::exchange::{Admitted, Exchange, Facts};
use crate::cache::crowd::Refresh;
use crate::keys::KeyEntry;
use crate::policy::cache::CacheTurn;
use crate::runtime::{Route, Runtime};

/// What the exchange in the background takes over from the one that found something stale.
struct Inherited {
    runtime: Arc<Runtime>,
    connection: Option<Arc<Connection>>,
    facts: Facts,
    admitted: Admitted,
    route: Option<Arc<Route>>,
    key: Option<Arc<KeyEntry>>,
    /// Nobody else refreshes the same meanwhile.
    refresh: Refresh,
}

impl Exchange {
    /// Lets what was found stale be refreshed.
    pub(super) fn refresh_in_background(&self, session: &mut Session, refresh: Refresh) {
        let Some(admitted) = &self.admitted else { return };
        let Some(spawner) = session.subrequest_spawner.take() else { return };
        let inherited = Inherited {
            runtime: Arc::clone(&self.runtime),
            connection: self.connection.clone(),
            facts: self.facts.clone(),
            admitted: Admitted {
                route: Arc::clone(&admitted.route),
                pattern: Arc::clone(&admitted.pattern),
                path: Arc::clone(&admitted.path),
                key_header: admitted.key_header.clone(),
                query: admitted.query.clone(),
                limit_fields: None,
            },
            route: self.route.clone(),
            key: self.key.clone(),
            refresh,
        };
        let context = Ctx::builder().user_ctx(Box::new(Some(inherited))).build();
        spawner.spawn_background_subrequest(session.as_ref(), context);
        session.subrequest_spawner = Some(spawner);
    }

    /// Takes over what the exchange that asked for this one knows; false where a client asked.
    pub(super) fn inherit(&mut self, session: &mut Session) -> bool {
        let Some(context) = session.subrequest_ctx.as_mut().and_then(|context| context.user_ctx_mut()) else {
            return false;
        };
        let Some(inherited) = context.downcast_mut::<Option<Inherited>>().and_then(Option::take) else { return false };
        let request_id = self.facts.request_id;
        self.runtime = inherited.runtime;
        self.connection = inherited.connection;
        self.facts = Facts { request_id, client_request_id: None, ..inherited.facts };
        self.admitted = Some(inherited.admitted);
        self.route = inherited.route;
        self.key = inherited.key;
        self.refresh = Some(inherited.refresh);
        self.cache_turn = CacheTurn::refreshing();
        self.makes_no_record();
        true
    }
}
