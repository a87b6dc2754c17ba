//! The path that instances see: the client's, without a prefix, or made from a template.
//! Always made from the normal form that was routed, so an instance never sees another path than the one that was admitted.

use std::borrow::Cow;

use crate::config::{Pattern, Segment};

/// How the forwarded path is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Rewrite {
    /// As it was routed.
    Keep,
    /// Without this prefix.
    StripPrefix(Box<str>),
    /// From a template, e.g. `/v2/{id}`.
    Template(Box<[Part]>),
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// As it stands.
    Text(Box<str>),
    /// What the pattern's `{name}` matched.
    Name(Box<str>),
}

impl Rewrite {
    /// The compiled form of `strip_prefix` and `rewrite`, of which a route has at most one.
    pub fn compile(strip_prefix: Option<&str>, rewrite: Option<&str>) -> Self {
        match (strip_prefix, rewrite) {
            (_, Some(template)) => Self::Template(parts(template)),
            (Some(prefix), None) => Self::StripPrefix(prefix.trim_end_matches('/').into()),
            (None, None) => Self::Keep,
        }
    }

    /// The path to forward for `path`, which `pattern` matched.
    pub fn apply<'a>(&'a self, path: &'a str, pattern: &Pattern) -> Cow<'a, str> {
        match self {
            Self::Keep => path.into(),
            Self::StripPrefix(prefix) => match path.strip_prefix(&**prefix) {
                Some("") => "/".into(),
                Some(rest) if rest.starts_with('/') => rest.into(),
                _ => path.into(),
            },
            Self::Template(parts) => parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text,
                    Part::Name(name) => matched(name, path, pattern).unwrap_or_default(),
                })
                .collect::<String>()
                .into(),
        }
    }
}

/// The segment of `path` that stands where `pattern` has `{name}`.
fn matched<'a>(name: &str, path: &'a str, pattern: &Pattern) -> Option<&'a str> {
    let place = pattern.segments.iter().position(|segment| matches!(segment, Segment::Name(known) if known == name))?;
    path.split('/').skip(1).nth(place)
}

fn parts(template: &str) -> Box<[Part]> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        parts.push(Part::Text(text.into()));
        parts.push(Part::Name(name.into()));
        rest = after;
    }
    parts.push(Part::Text(rest.into()));
    parts.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostPattern;

    fn pattern() -> Pattern {
        Pattern {
            text: "/a/{id}/b/{x}".into(),
            methods: Vec::new(),
            host: HostPattern::Any,
            segments: vec![
                Segment::Literal("a".into()),
                Segment::Name("id".into()),
                Segment::Literal("b".into()),
                Segment::Name("x".into()),
            ],
            subtree: false,
        }
    }

    fn check(strip_prefix: Option<&str>, rewrite: Option<&str>, path: &str, expected: &str) {
        assert_eq!(Rewrite::compile(strip_prefix, rewrite).apply(path, &pattern()), expected);
    }

    #[test]
    fn a_prefix_is_stripped_at_a_segment_border() {
        check(Some("/api"), None, "/api/users", "/users");
        check(Some("/api/"), None, "/api/users", "/users");
        check(Some("/api"), None, "/api", "/");
        check(Some("/api"), None, "/api/", "/");
        check(Some("/api"), None, "/apix", "/apix");
    }

    #[test]
    fn a_template_takes_names_from_the_pattern() {
        check(None, Some("/v2/{x}/of/{id}"), "/a/7/b/nine", "/v2/nine/of/7");
        check(None, Some("/fixed"), "/a/7/b/nine", "/fixed");
    }
}
