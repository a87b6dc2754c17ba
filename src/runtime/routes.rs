//! Which route a request belongs to: host, then path from the left, then method.
//! The path decides before the method, and the most specific pattern decides alone: a request never falls through to a wider one.
//! Conflicting patterns were refused when the configuration was read, so there is at most one answer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::Method;
use rustc_hash::FxBuildHasher;

use super::route::Route;
use crate::config::{HostPattern, Pattern, Segment};
use crate::refusal::Refusal;

/// The names in these are the configuration's: whatever clients ask for, no more of them can meet in one place than do already.
type FastMap<V> = HashMap<Box<str>, V, FxBuildHasher>;

/// The compiled route table.
#[derive(Default)]
pub struct Routes {
    hosts: FastMap<Node>,
    /// `.example.com`, the longest first.
    suffixes: Vec<(Box<str>, Node)>,
    any_host: Node,
}

/// A route and the pattern by which it was found.
pub struct Found<'a> {
    /// What happens to the request.
    pub route: &'a Arc<Route>,
    /// The pattern that matched.
    pub pattern: &'a Arc<Pattern>,
}

#[derive(Default)]
struct Node {
    literals: FastMap<Self>,
    name: Option<Box<Self>>,
    /// Patterns that end here.
    end: Vec<Entry>,
    /// Patterns that end here with `/*`.
    subtree: Vec<Entry>,
}

struct Entry {
    route: Arc<Route>,
    pattern: Arc<Pattern>,
}

impl Routes {
    /// The table of these routes, each with its patterns.
    pub fn compile(routes: impl IntoIterator<Item = (Arc<Route>, Vec<Pattern>)>) -> Self {
        let mut table = Self::default();
        for (route, patterns) in routes {
            for pattern in patterns {
                table.insert(Entry { route: Arc::clone(&route), pattern: Arc::new(pattern) });
            }
        }
        table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        table
    }

    fn insert(&mut self, entry: Entry) {
        let mut node = match &entry.pattern.host {
            HostPattern::Any => &mut self.any_host,
            HostPattern::Exact(host) => self.hosts.entry(host.as_str().into()).or_default(),
            HostPattern::Suffix(suffix) => {
                let place = self.suffixes.iter().position(|(known, _)| **known == **suffix).unwrap_or_else(|| {
                    self.suffixes.push((suffix.as_str().into(), Node::default()));
                    self.suffixes.len() - 1
                });
                &mut self.suffixes[place].1
            }
        };
        for segment in &entry.pattern.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.as_str().into()).or_default(),
                Segment::Name(_) => node.name.get_or_insert_default(),
            };
        }
        if entry.pattern.subtree { node.subtree.push(entry) } else { node.end.push(entry) }
    }

    /// The route of a request: `host` in lower case without port, `path` in its normal form.
    ///
    /// # Errors
    /// 404 where no pattern matches, 405 where the most specific one does not admit the method.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<Found<'_>, Refusal> {
        let entries = self.entries(host, path).ok_or(Refusal::NoRoute)?;
        entries
            .iter()
            .find(|entry| admits(&entry.pattern.methods, method))
            .map(|entry| Found { route: &entry.route, pattern: &entry.pattern })
            .ok_or_else(|| Refusal::MethodNotAllowed { allow: allow(entries).into() })
    }

    fn entries(&self, host: &str, path: &str) -> Option<&[Entry]> {
        let path = path.strip_prefix('/')?;
        if let Some(found) = self.hosts.get(host).and_then(|node| node.find(Some(path))) {
            return Some(found);
        }
        self.suffixes
            .iter()
            .filter(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix))
            .find_map(|(_, node)| node.find(Some(path)))
            .or_else(|| self.any_host.find(Some(path)))
    }
}

impl Node {
    /// The most specific patterns for what is `left` of the path: literal, then `{name}`, then `/*`.
    /// As deep as the deepest pattern at most.
    fn find(&self, left: Option<&str>) -> Option<&[Entry]> {
        let below = match left {
            None => (!self.end.is_empty()).then_some(self.end.as_slice()),
            Some(left) => {
                let (segment, left) =
                    left.split_once('/').map_or((left, None), |(segment, left)| (segment, Some(left)));
                self.literals.get(segment).and_then(|node| node.find(left)).or_else(|| {
                    let node = self.name.as_ref().filter(|_| !segment.is_empty())?;
                    node.find(left)
                })
            }
        };
        below.or_else(|| (!self.subtree.is_empty()).then_some(self.subtree.as_slice()))
    }
}

fn admits(methods: &[Method], method: &Method) -> bool {
    methods.is_empty() || methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
}

/// The value of `Allow`, sorted.
fn allow(entries: &[Entry]) -> String {
    let mut methods: BTreeSet<&str> =
        entries.iter().flat_map(|entry| &entry.pattern.methods).map(Method::as_str).collect();
    if methods.contains("GET") {
        methods.insert("HEAD");
    }
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::route::tests::route_named;

    fn pattern(text: &str) -> Pattern {
        let (methods, rest) = text.split_once(' ').unwrap_or(("", text));
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        let subtree = path.ends_with("/*");
        let path = path.strip_suffix("/*").unwrap_or(path);
        Pattern {
            text: text.into(),
            methods: methods.split(',').filter(|name| !name.is_empty()).map(|name| name.parse().unwrap()).collect(),
            host: match host {
                "" => HostPattern::Any,
                host if host.starts_with("*.") => HostPattern::Suffix(host[1..].into()),
                host => HostPattern::Exact(host.into()),
            },
            segments: path
                .split('/')
                .skip(1)
                .map(|segment| match segment.strip_prefix('{') {
                    Some(name) => Segment::Name(name.trim_end_matches('}').into()),
                    None => Segment::Literal(segment.into()),
                })
                .collect(),
            subtree,
        }
    }

    fn check(patterns: &[&str], method: &str, host: &str, path: &str, expected: Result<&str, u16>) {
        let table = Routes::compile(patterns.iter().map(|text| (route_named(text), vec![pattern(text)])));
        let found = table.find(host, path, &method.parse().unwrap());
        let found = found.map(|found| found.pattern.text.clone()).map_err(|refusal| refusal.status().as_u16());
        assert_eq!(found, expected.map(str::to_owned), "{method} {host}{path}");
    }

    #[test]
    fn a_subtree_is_the_path_and_everything_below() {
        for path in ["/a", "/a/", "/a/b", "/a/b/c"] {
            check(&["/a/*"], "GET", "", path, Ok("/a/*"));
        }
        check(&["/a/*"], "GET", "", "/ab", Err(404));
        check(&["/*"], "GET", "", "/", Ok("/*"));
    }

    #[test]
    fn a_path_is_only_itself() {
        check(&["/a"], "GET", "", "/a", Ok("/a"));
        check(&["/a"], "GET", "", "/a/", Err(404));
        check(&["/a/"], "GET", "", "/a/", Ok("/a/"));
        check(&["/a/"], "GET", "", "/a", Err(404));
        check(&["/"], "GET", "", "/", Ok("/"));
        check(&["/"], "GET", "", "/a", Err(404));
    }

    #[test]
    fn a_name_is_one_segment_that_is_not_empty() {
        check(&["/a/{id}"], "GET", "", "/a/7", Ok("/a/{id}"));
        check(&["/a/{id}"], "GET", "", "/a/", Err(404));
        check(&["/a/{id}"], "GET", "", "/a/7/8", Err(404));
    }

    #[test]
    fn the_most_specific_pattern_wins_from_the_left() {
        let table = ["/a/b/c", "/a/{x}/d", "/a/*", "/{y}/*", "/*"];
        check(&table, "GET", "", "/a/b/c", Ok("/a/b/c"));
        check(&table, "GET", "", "/a/b/d", Ok("/a/{x}/d"));
        check(&table, "GET", "", "/a/b/e", Ok("/a/*"));
        check(&table, "GET", "", "/z/b", Ok("/{y}/*"));
        check(&table, "GET", "", "/", Ok("/*"));
    }

    #[test]
    fn the_host_decides_before_the_path() {
        let table = ["api.example.com/a", "*.example.com/a", "*.eu.example.com/a", "/a", "/b"];
        check(&table, "GET", "api.example.com", "/a", Ok("api.example.com/a"));
        check(&table, "GET", "x.example.com", "/a", Ok("*.example.com/a"));
        check(&table, "GET", "x.eu.example.com", "/a", Ok("*.eu.example.com/a"));
        check(&table, "GET", "example.com", "/a", Ok("/a"));
        check(&table, "GET", "api.example.com", "/b", Ok("/b"));
    }

    #[test]
    fn the_path_decides_before_the_method() {
        check(&["GET /a/b", "/a/*"], "POST", "", "/a/b", Err(405));
        check(&["GET /a/b", "POST /a/b"], "POST", "", "/a/b", Ok("POST /a/b"));
        check(&["GET /a"], "HEAD", "", "/a", Ok("GET /a"));
    }

    #[test]
    fn allow_names_every_method() {
        let table = Routes::compile(["GET /a", "PUT,POST /a"].map(|text| (route_named(text), vec![pattern(text)])));
        let refusal = table.find("", "/a", &Method::DELETE).err().unwrap();
        assert_eq!(refusal, Refusal::MethodNotAllowed { allow: "GET, HEAD, POST, PUT".into() });
    }
}
