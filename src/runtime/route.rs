//! A route at run time: what happens to the requests that match it, everything looked up beforehand.
//! Plain data: which route a request belongs to is `routes.rs`, how a route is made is `mod.rs`.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::auth::Auth;
use crate::policy::cache::CacheRule;
use crate::policy::clients::Clients;
use crate::policy::compress::Compress;
use crate::policy::concurrency::Concurrency;
use crate::policy::cors::Cors;
use crate::policy::headers::Changes;
use crate::policy::limit::RouteLimits;
use crate::policy::retry::Retry;
use crate::policy::rewrite::Rewrite;
use crate::upstream::Service;

/// What happens to a request.
pub struct Route {
    /// The pattern or name: the label in log and metrics.
    pub endpoint: Arc<str>,
    /// Who answers.
    pub service: Arc<Service>,
    /// Who may call.
    pub auth: Auth,
    /// From which addresses.
    pub clients: Option<Clients>,
    /// From pages of which origins.
    pub cors: Option<Cors>,
    /// How often, for each plan.
    pub limits: RouteLimits,
    /// How many of one caller at once.
    pub concurrency: Option<Concurrency>,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// Whether and how answers are cached.
    pub cache: Option<CacheRule>,
    /// In which codings answers are compressed.
    pub compress: Option<Compress>,
    /// Until the header of the final answer, over all tries.
    pub timeout: Duration,
    /// When a request is tried again.
    pub retry: Option<Retry>,
    /// The path that instances see.
    pub rewrite: Rewrite,
    /// Changes to the request's headers.
    pub request_headers: Changes,
    /// Changes to the answer's headers.
    pub response_headers: Changes,
    /// Whether instances are told who calls. Not where one stored answer serves all consumers: it could depend on it.
    pub names_consumer: bool,
}

impl Route {
    /// Whether no rule of the route touches the header of an answer.
    pub fn leaves_answers(&self) -> bool {
        self.compress.is_none() && self.cors.is_none() && self.response_headers.is_empty()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config;
    use crate::keys::{KeyTable, LiveKeys};
    use crate::upstream::{Answers, Discovery, Predecessor};

    /// A route to nowhere with this endpoint.
    pub fn route_named(endpoint: &str) -> Arc<Route> {
        let service =
            config::Service { instances: vec![config::Instance::at("127.0.0.1:9")], ..config::Service::default() };
        let discovery = Discovery::compile(&config::Discovery::default(), None).unwrap();
        let keys = Arc::new(LiveKeys::of_table(KeyTable::compile(&std::collections::BTreeMap::new())));
        Arc::new(Route {
            endpoint: endpoint.into(),
            service: Service::compile("nowhere", &service, &discovery, &Answers::default(), Predecessor::None).unwrap(),
            auth: Auth::compile(&config::KeyRule::None, &[], keys),
            clients: None,
            cors: None,
            limits: RouteLimits::default(),
            concurrency: None,
            body_bytes_max: 0,
            cache: None,
            compress: None,
            timeout: Duration::ZERO,
            retry: None,
            rewrite: Rewrite::Keep,
            request_headers: Changes::default(),
            response_headers: Changes::default(),
            names_consumer: false,
        })
    }
}
