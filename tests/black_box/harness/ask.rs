//! One request, as a sentence: `gateway.get("/users").key("alice").await`.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use reqwest::RequestBuilder;

use super::Answer;

/// A request that is sent when it is awaited.
#[must_use]
pub struct Ask(RequestBuilder);

impl Ask {
    pub fn new(request: RequestBuilder) -> Self {
        Self(request)
    }

    /// With this key in `X-API-Key`.
    pub fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    /// With this key as `Authorization: Bearer`.
    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.body(body))
    }

    /// The answer, or why there is none.
    pub async fn attempt(self) -> Result<Answer, reqwest::Error> {
        let response = self.0.send().await?;
        Ok(Answer {
            status: response.status().as_u16(),
            version: response.version(),
            headers: response.headers().clone(),
            body: response.bytes().await?.to_vec(),
        })
    }
}

impl IntoFuture for Ask {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.attempt().await.unwrap_or_else(|error| panic!("no answer: {error:?}")) })
    }
}
