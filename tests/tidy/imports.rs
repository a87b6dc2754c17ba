//! Who imports whom: every path that begins with `crate`, `super`, `self` or the library's name, wherever it stands.
//! Paths are resolved to modules by their names alone; what a module re-exports counts as that module's own.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Piece, Source};

/// A path in the code, resolved from the root of the library.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// The file it stands in.
    pub path: String,
    pub line: usize,
    /// The module it stands in.
    pub from: Vec<String>,
    /// What it names: modules first, then perhaps an item.
    pub to: Vec<String>,
}

pub fn imports(source: &Source) -> Vec<Import> {
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    for at in 0..source.tokens.len() {
        inline.retain(|(_, close)| at < *close);
        let is_inline_module = source.word(at) == Some("mod") && source.is(at + 2, &Piece::Sign('{'));
        if let (true, Some(name)) = (is_inline_module, source.word(at + 1)) {
            inline.push((name.to_owned(), crate::source::closing(&source.tokens, at + 2)));
        }
        let begins_path =
            !(at > 0 && source.is(at - 1, &Piece::PathSeparator)) && source.is(at + 1, &Piece::PathSeparator);
        if !begins_path {
            continue;
        }
        let mut from = source.module();
        from.extend(inline.iter().map(|(name, _)| name.clone()));
        if let Some((base, next)) = base(source, at, &from) {
            let line = source.tokens[at].line;
            for to in tree(source, next, &base).0 {
                found.push(Import { path: source.path.clone(), line, from: from.clone(), to });
            }
        }
    }
    found
}

/// The module a path begins in, and where it goes on.
fn base(source: &Source, at: usize, from: &[String]) -> Option<(Vec<String>, usize)> {
    let mut base = from.to_vec();
    let mut at = at;
    match source.word(at)? {
        "crate" | "tollgate" => return Some((Vec::new(), at + 2)),
        "self" => at += 2,
        "super" => {}
        _ => return None,
    }
    while source.word(at) == Some("super") && source.is(at + 1, &Piece::PathSeparator) {
        base.pop();
        at += 2;
    }
    Some((base, at))
}

/// The paths of a tree such as `a::{b, c::d as e}`, and where it ends.
pub fn tree(source: &Source, at: usize, base: &[String]) -> (Vec<Vec<String>>, usize) {
    let mut path = base.to_vec();
    let mut at = at;
    loop {
        if source.is(at, &Piece::Sign('{')) {
            let mut paths = Vec::new();
            at += 1;
            while at < source.tokens.len() && !source.is(at, &Piece::Sign('}')) {
                let (below, next) = tree(source, at, &path);
                paths.extend(below);
                at = next.max(at + 1);
                while at < source.tokens.len() && !source.is(at, &Piece::Sign(',')) && !source.is(at, &Piece::Sign('}'))
                {
                    at += 1;
                }
                at += usize::from(source.is(at, &Piece::Sign(',')));
            }
            return (paths, at + 1);
        }
        match source.word(at) {
            Some("self") => at += 1,
            Some(word) => {
                path.push(word.to_owned());
                at += 1;
            }
            None => return (vec![path], at),
        }
        if !source.is(at, &Piece::PathSeparator) {
            return (vec![path], at);
        }
        at += 1;
    }
}

/// What the module of `source` re-exports from its own children: item name to child.
pub fn reexports(source: &Source, children: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for at in 0..source.tokens.len() {
        if source.word(at) != Some("use")
            || !source.word(at + 1).is_some_and(|word| word == "self" || children.contains(word))
        {
            continue;
        }
        let start = if source.word(at + 1) == Some("self") { at + 3 } else { at + 1 };
        for path in tree(source, start, &[]).0 {
            if let (Some(child), Some(item)) = (path.first(), path.last()) {
                found.insert(item.clone(), child.clone());
            }
        }
    }
    found
}

/// The cycles among the modules at the root, each written `a > b > a`. The files of one module belong together.
pub fn cycles(sources: &[Source], imports: &[Import]) -> Vec<String> {
    let modules: BTreeSet<String> = sources.iter().filter_map(|source| source.module().into_iter().next()).collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for import in imports {
        if let (Some(from), Some(to)) = (import.from.first(), import.to.first())
            && from != to
            && modules.contains(to)
        {
            graph.entry(from.clone()).or_default().insert(to.clone());
        }
    }
    let mut found = BTreeSet::new();
    for start in graph.keys() {
        if let Some(mut way) = way_back(&graph, start) {
            // The same cycle is found from each of its modules: it is told from its smallest.
            let smallest = way.iter().enumerate().min_by_key(|(_, module)| *module).map_or(0, |(at, _)| at);
            way.rotate_left(smallest);
            way.push(way[0].clone());
            found.insert(way.join(" > "));
        }
    }
    found.into_iter().collect()
}

/// The shortest way from a module back to itself.
fn way_back(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way.last().and_then(|last| graph.get(last)).into_iter().flatten() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way.iter().cloned().chain([next.clone()]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}
