//! Patterns that cannot stand together: the same shape with a common method, and overlaps of which neither is more specific.
//! The path decides before the method, so overlaps count whatever the methods are; shapes are compared within one host.
//! A trie keeps this fast: a pattern is compared only with those that share its way.

use std::collections::HashMap;

use crate::config::places::Places;
use crate::config::{Config, HostPattern, Pattern, Segment};

/// Problems of one kind that are reported; ten thousand lines help nobody.
const REPORTED_MAX: usize = 100;

/// The search over all patterns of a configuration.
pub struct Overlaps;

/// One pattern and where it is written.
struct Written<'a> {
    pattern: &'a Pattern,
    path: String,
}

/// The patterns below one point of the path.
#[derive(Default)]
struct Node<'a> {
    literals: HashMap<&'a str, usize>,
    name: Option<usize>,
    /// Patterns that end here, by their place in the list.
    exact: Vec<usize>,
    subtree: Vec<usize>,
}

impl Overlaps {
    /// Path and message of each problem.
    pub fn find(config: &Config, places: &Places) -> Vec<(String, String)> {
        let mut hosts: HashMap<&HostPattern, Trie<'_>> = HashMap::new();
        let mut found = Vec::new();
        for (name, route) in &config.routes {
            for (index, pattern) in route.patterns.iter().enumerate() {
                let path = written_at(places, name, index, route.patterns.len());
                hosts.entry(&pattern.host).or_insert_with(Trie::new).add(Written { pattern, path }, &mut found);
            }
        }
        for trie in hosts.values() {
            let mut known = Known::new();
            for index in 0..trie.patterns.len() {
                if found.len() >= REPORTED_MAX {
                    return found;
                }
                if let Some(other) = trie.crossing(index, &mut known) {
                    // Reported at the one that stands later in the file.
                    let (first, second) = (&trie.patterns[other.min(index)], &trie.patterns[other.max(index)]);
                    let message = format!(
                        "`{}` and `{}` overlap and neither is more specific: some paths match both; write a pattern with the literals of both, or change one",
                        second.pattern.text, first.pattern.text
                    );
                    found.push((second.path.clone(), message));
                }
            }
        }
        found
    }
}

fn written_at(places: &Places, name: &str, index: usize, length: usize) -> String {
    let route = format!("routes.{name}");
    let element = format!("{route}.match[{index}]");
    let whole = format!("{route}.match");
    if places.has(&element) {
        element
    } else if length == 1 && places.has(&whole) {
        whole
    } else {
        route
    }
}

/// What stands below the literals of a node and overlaps with the rest of a pattern: many patterns end alike.
type Known<'a> = HashMap<(usize, &'a [Segment], bool), Option<usize>>;

struct Trie<'a> {
    nodes: Vec<Node<'a>>,
    patterns: Vec<Written<'a>>,
}

impl<'a> Trie<'a> {
    fn new() -> Self {
        Self { nodes: vec![Node::default()], patterns: Vec::new() }
    }

    /// Adds a pattern; one of the same shape with a common method is a problem.
    fn add(&mut self, written: Written<'a>, found: &mut Vec<(String, String)>) {
        let mut at = 0;
        for segment in &written.pattern.segments {
            let next = self.nodes.len();
            let slot = match segment {
                Segment::Literal(text) => self.nodes[at].literals.entry(text).or_insert(next),
                Segment::Name(_) => self.nodes[at].name.get_or_insert(next),
            };
            at = *slot;
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[at];
        let same_shape = if written.pattern.subtree { &mut node.subtree } else { &mut node.exact };
        for other in same_shape.iter() {
            let other = &self.patterns[*other];
            if found.len() < REPORTED_MAX && other.pattern.shares_method(written.pattern) {
                found.push((
                    written.path.clone(),
                    format!("`{}` matches the same requests as `{}`", written.pattern.text, other.pattern.text),
                ));
            }
        }
        same_shape.push(self.patterns.len());
        self.patterns.push(written);
    }

    /// A pattern that overlaps with the one at `index` while each is narrower somewhere.
    ///
    /// Looks only from the pattern that has the literal where the two first differ, so each pair is found once.
    fn crossing(&self, index: usize, known: &mut Known<'a>) -> Option<usize> {
        self.walk(0, self.patterns[index].pattern, 0, false, known)
    }

    fn walk(
        &self,
        at: usize,
        pattern: &'a Pattern,
        depth: usize,
        other_is_wider: bool,
        known: &mut Known<'a>,
    ) -> Option<usize> {
        let node = &self.nodes[at];
        match pattern.segments.get(depth) {
            // A subtree ends here: what goes on below is narrower from here on.
            None if other_is_wider && pattern.subtree => self.children(at).find_map(|next| self.any_below(next)),
            None => None,
            Some(Segment::Literal(text)) => {
                let same = node.literals.get(text.as_str());
                let same = same.and_then(|next| self.walk(*next, pattern, depth + 1, other_is_wider, known));
                if same.is_some() || text.is_empty() {
                    return same; // `{name}` matches what is not empty
                }
                node.name.and_then(|next| self.walk(next, pattern, depth + 1, true, known))
            }
            Some(Segment::Name(_)) => {
                let same = node.name.and_then(|next| self.walk(next, pattern, depth + 1, other_is_wider, known));
                if same.is_some() || !other_is_wider {
                    return same;
                }
                let rest = (at, &pattern.segments[depth + 1..], pattern.subtree);
                *known.entry(rest).or_insert_with(|| {
                    let literals = node.literals.iter().filter(|(text, _)| !text.is_empty());
                    literals.filter_map(|(_, next)| self.narrower(*next, pattern, depth + 1)).min()
                })
            }
        }
    }

    /// The other is wider before and narrower here: any overlap of the rest is a crossing.
    fn narrower(&self, at: usize, pattern: &Pattern, depth: usize) -> Option<usize> {
        let node = &self.nodes[at];
        let here = node.subtree.first().copied();
        let Some(segment) = pattern.segments.get(depth) else {
            if pattern.subtree {
                return here.or_else(|| self.any_below(at));
            }
            return here.or_else(|| node.exact.first().copied());
        };
        if here.is_some() {
            return here;
        }
        match segment {
            Segment::Literal(text) => {
                let same = node.literals.get(text.as_str()).and_then(|next| self.narrower(*next, pattern, depth + 1));
                let name = node.name.filter(|_| !text.is_empty());
                same.or_else(|| name.and_then(|next| self.narrower(next, pattern, depth + 1)))
            }
            Segment::Name(_) => {
                let literals = node.literals.iter().filter(|(text, _)| !text.is_empty()).map(|(_, next)| *next);
                literals.chain(node.name).filter_map(|next| self.narrower(next, pattern, depth + 1)).min()
            }
        }
    }

    fn any_below(&self, at: usize) -> Option<usize> {
        let node = &self.nodes[at];
        let here = node.exact.first().or(node.subtree.first()).copied();
        here.or_else(|| self.children(at).find_map(|next| self.any_below(next)))
    }

    fn children(&self, at: usize) -> impl Iterator<Item = usize> {
        self.nodes[at].literals.values().copied().chain(self.nodes[at].name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(patterns: &[&str]) -> Vec<String> {
        let parsed: Vec<Pattern> = patterns
            .iter()
            .map(|text| Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")))
            .collect();
        let mut trie = Trie::new();
        let mut found = Vec::new();
        for pattern in &parsed {
            trie.add(Written { pattern, path: pattern.text.clone() }, &mut found);
        }
        let mut known = Known::new();
        let mut messages: Vec<String> = found.into_iter().map(|(_, message)| message).collect();
        messages.extend(
            (0..parsed.len()).filter_map(|index| trie.crossing(index, &mut known)).map(|_| "crossing".to_owned()),
        );
        messages
    }

    fn crossing(one: &str, other: &str, expected: bool) {
        assert_eq!(!problems(&[one, other]).is_empty(), expected, "{one} {other}");
        assert_eq!(!problems(&[other, one]).is_empty(), expected, "{other} {one}");
    }

    #[test]
    fn overlaps_without_a_more_specific_pattern_are_found() {
        crossing("/a/{x}/c", "/a/b/{y}", true);
        crossing("/{x}/b", "/a/*", true);
        crossing("/{x}/b/*", "/a/{y}", true);
        crossing("/{x}/b/c", "/a/{y}/*", true);
        crossing("/a/{x}/{z}/d", "/a/b/{y}/d", false);
        crossing("/a/{x}/{z}/d", "/a/b/{y}/e", false);
        crossing("/{a}/x/{b}", "/k/{c}/*", true);
        crossing("/a/{x}/c", "/a/{x}/c/*", false);
        crossing("/users/{id}", "/users/me/*", false);
        crossing("/users/{id}/*", "/users/me", false);
        crossing("/users/{id}", "/users/", false);
        crossing("/a/*", "/*", false);
        crossing("/a/", "/{x}/b", false);
        crossing("/{x}/", "/a/{y}", false);
    }

    #[test]
    fn equal_shapes_with_a_common_method_are_found() {
        crossing("/a/{x}", "/a/{y}", true);
        crossing("GET /a", "POST /a", false);
        crossing("GET /a", "HEAD /a", true);
        crossing("GET,POST /a", "POST /a", true);
        crossing("/a", "PUT /a", true);
        crossing("/a/*", "/a", false);
    }

    #[test]
    fn ten_thousand_routes_take_no_time() {
        let texts: Vec<String> = (0..5_000)
            .flat_map(|n| [format!("/s{n}/{{id}}/items/{{item}}"), format!("/{{tenant}}/t{n}/x/{{y}}/z")])
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let start = std::time::Instant::now();
        let _ = problems(&texts);
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
