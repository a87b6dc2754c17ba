//! Route patterns: `[METHOD[,METHOD] ][host]/path`, as in Go's `ServeMux`.
//! Only the grammar; which pattern wins is decided in `runtime/routes.rs`.

/// One pattern of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As it is written, at most 200 bytes: the endpoint label of a route without a name.
    pub text: String,
    /// The methods it admits; every method when empty. GET admits HEAD.
    pub methods: Vec<http::Method>,
    /// The hosts it is for.
    pub host: HostPattern,
    /// The path's segments, e.g. `/a/{x}/c`; `/a/` ends with an empty literal.
    pub segments: Vec<Segment>,
    /// Whether it ends with `/*`: the path itself and everything below.
    pub subtree: bool,
}

/// The host part of a pattern, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host.
    Exact(String),
    /// `*.example.com`: every host below, kept as `.example.com`.
    Suffix(String),
    /// No host in the pattern.
    Any,
}

/// One segment of a pattern's path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Exactly this text.
    Literal(String),
    /// `{name}`: one segment that is not empty.
    Name(String),
}
crate::placeholder_serde!(Pattern);
