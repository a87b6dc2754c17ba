//! Cache: which requests of a route may be answered from the store, which answers go into it, and what the client is told.
//! The rules of storing and freshness are `cache::freshness`; here they meet Pingora's phases. `rule.rs`: what a route says;
//! `request.rs`: what a request asks for; `turn.rs`: what the cache did in one exchange, in the order of its phases;
//! `answer.rs`: headers of stored answers; `at_hand.rs`: fresh answers that need no phases; `status.rs`: what the client is told; `query.rs`: the query that counts; `ranges.rs`: answers in parts;
//! `surrogate.rs`: an older header that says how long an answer is fresh.
//! As a CDN does, the store ignores a request's wish for fresher answers unless the route obeys it; `no-store` always counts.
//! Not here: the store, the refresh in the background, and the removal of hop-by-hop headers from what the client gets.

mod answer;
mod at_hand;
mod query;
mod ranges;
mod request;
mod rule;
mod status;
mod surrogate;
mod turn;

pub use answer::invalidates;
pub use at_hand::AtHand;
pub use request::Bypass;
pub use rule::CacheRule;
pub use turn::CacheTurn;

#[cfg(test)]
mod tests;
