//! An answer as the client has it: status, headers, body.
//! The same for answers of an HTTP client and for answers read off the wire.

use http::{HeaderMap, Version};
use serde_json::Value;

/// What the client was sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// The header's value; fails when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next().map(|value| value.to_str().expect("a header of visible characters"));
        assert!(values.next().is_none(), "several {name} in {self:?}");
        first
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}: {}", self.status, self.text()))
    }

    /// The reason code of a refusal, whose form is checked on the way.
    pub fn refusal(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {problem}");
        }
        let id = self.header("x-request-id").expect("an X-Request-Id on every answer");
        assert_eq!(problem["instance"], format!("urn:uuid:{id}"));
        problem["reason"].as_str().expect("a reason").to_owned()
    }

    /// Status and reason code of a refusal.
    pub fn refused(&self) -> (u16, String) {
        (self.status, self.refusal())
    }

    /// Which instance answered.
    pub fn instance(&self) -> &str {
        self.header("x-instance").unwrap_or_else(|| panic!("no X-Instance in {self:?}"))
    }
}
