//! The first pass: YAML events become a tree of our own that knows where everything stands.
//! Duplicate keys, anchors, aliases, tags and further documents are found here, because serde would not see them.
//! What the values mean is not decided here (`reader.rs`); plain scalars keep their text.
//! Bounded: file size, number of nodes, depth.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::problems::{Problem, Problems};
use super::syntax;

/// Bytes of a configuration file.
pub const FILE_MAX: u64 = 16 << 20;
const NODES_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 32;
const NAME_MAX: usize = 512;

/// Line and column, from 1.
pub type Mark = (u32, u32);

/// One value of the file.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands.
    pub at: Mark,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Text, number, true or false, or nothing.
    Scalar(Scalar),
    /// `[...]` or lines with `-`.
    List(Vec<Node>),
    /// `name: value`, in the order of the file.
    Map(Vec<Entry>),
    /// A list element that was reported and is skipped from then on.
    Removed,
}

/// One `name: value`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name, as text.
    pub name: String,
    /// Where the name stands.
    pub at: Mark,
    /// The value.
    pub node: Node,
}

/// A scalar before it has a type.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// Its text, variables replaced.
    pub text: String,
    /// How it was written.
    pub style: Style,
    /// As it stands in the file, where variables were replaced.
    pub written: Option<String>,
}

/// How a scalar was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: may be a number, true, false or nothing.
    Plain,
    /// In quotes, or as a block: text.
    Quoted,
    /// One variable and nothing else: typed by the field it is for.
    Variable,
}

impl Node {
    /// The value of `name`, when this is a map that has it.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.name == name).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The same map with `name` alone.
    pub fn only(self, name: &str) -> Self {
        match self.kind {
            Kind::Map(entries) => {
                Self { at: self.at, kind: Kind::Map(entries.into_iter().filter(|entry| entry.name == name).collect()) }
            }
            kind => Self { at: self.at, kind },
        }
    }

    /// The entries, when this is a map.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, when this is a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether nothing is written.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.style == Style::Plain
            && matches!(scalar.text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads one document. None, with problems, when it is no YAML or is empty.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    let tabs = syntax::tabs(text);
    if !tabs.is_empty() {
        tabs.into_iter().for_each(|problem| problems.push(problem));
        return None;
    }
    let mut builder = Builder { text, parser: Parser::new_from_str(text), problems, nodes: 0, last: (1, 1) };
    match builder.document() {
        Ok(node) => node,
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    problems: &'a mut Problems,
    nodes: usize,
    last: Mark,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Option<Node>, Problem> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(problem(
                        at,
                        "",
                        "a second document (`---`) begins here: a configuration is one document",
                    ));
                }
                Event::DocumentStart(_) => {}
                event => root = Some(self.node(event, at, "", 0)?),
            }
        }
        if root.is_none() {
            self.problems.push(problem(
                (1, 1),
                "",
                "the file is empty: see `tollgate run --help` for the smallest configuration",
            ));
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<(Event<'a>, Mark), Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let at = mark(span.start);
                if !matches!(event, Event::StreamEnd | Event::DocumentEnd | Event::MappingEnd | Event::SequenceEnd) {
                    self.last = at;
                }
                Ok((event, at))
            }
            Some(Err(error)) => Err(syntax::explain(self.text, self.last, mark(*error.marker()), error.info())),
            None => Ok((Event::StreamEnd, self.last)),
        }
    }

    fn node(&mut self, event: Event<'a>, at: Mark, path: &str, depth: usize) -> Result<Node, Problem> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(problem(at, "", format!("more than {NODES_MAX} values: a configuration is smaller than that")));
        }
        if depth > DEPTH_MAX {
            return Err(problem(at, "", format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let kind = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(at, path, anchor, tag.is_some());
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                Kind::Scalar(Scalar { text: text.into_owned(), style, written: None })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(at, path, anchor, tag.is_some());
                self.list(path, depth)?
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(at, path, anchor, tag.is_some());
                self.map(path, depth)?
            }
            Event::Alias(_) => return Err(syntax::alias(self.text, at)),
            _ => return Err(problem(at, "", "a value is expected here")),
        };
        Ok(Node { at, kind })
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Kind, Problem> {
        let mut list = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Kind::List(list));
            }
            let node = self.node(event, at, &format!("{path}[{}]", list.len()), depth + 1)?;
            list.push(node);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Kind, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: std::collections::HashMap<String, Mark> = std::collections::HashMap::new();
        loop {
            let (event, at) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(Kind::Map(entries)),
                Event::Scalar(name, _, anchor, tag) => {
                    self.refuse_extras(at, path, anchor, tag.is_some());
                    name.into_owned()
                }
                Event::Alias(_) => return Err(syntax::alias(self.text, at)),
                _ => return Err(syntax::flow(self.text, at)),
            };
            if name.len() > NAME_MAX {
                return Err(problem(at, path, format!("a name of more than {NAME_MAX} bytes")));
            }
            let child = join(path, &name);
            let (event, value_at) = self.next()?;
            let mut node = self.node(event, value_at, &child, depth + 1)?;
            if node.is_null() || !matches!(node.kind, Kind::Scalar(_)) {
                // The value begins below its name: the name is what people look for.
                node.at = at;
            }
            if let Some(first) = seen.get(&name) {
                let message = format!("a second `{name}`: the first is in line {}; one of them has to go", first.0);
                self.problems.push(problem(at, &child, message));
                continue;
            }
            seen.insert(name.clone(), at);
            entries.push(Entry { name, at, node });
        }
    }

    fn refuse_extras(&mut self, at: Mark, path: &str, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.problems.push(problem(
                at,
                path,
                "anchors (`&name`) and aliases (`*name`) are not read: write the value where it is needed",
            ));
        }
        if tag {
            self.problems.push(problem(
                at,
                path,
                "tags (`!name`) are not read: write the value without it, in quotes if it is text",
            ));
        }
    }
}

/// A problem at a known place.
pub fn problem(at: Mark, path: &str, message: impl Into<String>) -> Problem {
    Problem { place: Some(at), path: path.to_owned(), message: message.into() }
}

/// The path of `name` below `path`.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn mark(marker: Marker) -> Mark {
    (u32::try_from(marker.line()).unwrap_or(u32::MAX).max(1), u32::try_from(marker.col() + 1).unwrap_or(u32::MAX))
}
