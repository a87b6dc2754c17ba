//! One source file, cut into tokens: enough of Rust's grammar to find paths, functions and lines of code.
//! Comments and the insides of strings are no tokens, and what is compiled for tests only is left out.
//! It reads code that compiles; on anything else its answers mean nothing.

use std::collections::BTreeSet;

/// A piece of code, and the lines it stands on (from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub piece: Piece,
    pub line: usize,
    pub last_line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// A name, a keyword or a number.
    Word(String),
    /// A string, character or lifetime, whatever it says.
    Literal,
    /// `::`
    PathSeparator,
    /// Any other character.
    Sign(char),
}

/// A file of the library or the program.
pub struct Source {
    /// Relative to the package, e.g. `src/policy/limit.rs`.
    pub path: String,
    /// All of it.
    pub text: String,
    /// Its code, without what is compiled for tests only.
    pub tokens: Vec<Token>,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub line: usize,
    /// Lines of code between its braces.
    pub lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), tokens: without_tests(cut(text)) }
    }

    /// The module this file is: `["policy", "limit"]`; empty for `lib.rs` and `main.rs`.
    pub fn module(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        module
    }

    /// Whether the whole file is compiled for tests only.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    pub fn word(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at).map(|token| &token.piece) {
            Some(Piece::Word(word)) => Some(word),
            _ => None,
        }
    }

    pub fn is(&self, at: usize, piece: &Piece) -> bool {
        self.tokens.get(at).is_some_and(|token| token.piece == *piece)
    }

    /// Lines that hold code: no comments, no blank lines, no tests.
    pub fn lines_of_code(&self) -> usize {
        code_lines(&self.tokens).len()
    }

    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            let (Some("fn"), Some(name)) = (self.word(at), self.word(at + 1)) else { continue };
            let Some(open) = item_end(&self.tokens, at) else { continue };
            if self.is(open, &Piece::Sign('{')) {
                let close = closing(&self.tokens, open);
                let inside = (self.tokens[open].line + 1)..self.tokens[close].line;
                let lines = code_lines(&self.tokens[open..close]).into_iter().filter(|line| inside.contains(line));
                found.push(Function { name: name.to_owned(), line: self.tokens[at].line, lines: lines.count() });
            }
        }
        found
    }
}

fn code_lines(tokens: &[Token]) -> BTreeSet<usize> {
    tokens.iter().flat_map(|token| token.line..=token.last_line).collect()
}

/// Where the head of the item that begins at `at` ends: its `{` or its `;`.
fn item_end(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.piece {
            Piece::Sign('(' | '[') => depth += 1,
            Piece::Sign(')' | ']') => depth = depth.saturating_sub(1),
            Piece::Sign('{' | ';') if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

/// The brace that closes the one at `open`.
pub fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.piece {
            Piece::Sign('{') => depth += 1,
            Piece::Sign('}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}

/// Leaves out every item behind `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let cfg_test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let begins = |at: usize| {
        cfg_test.iter().enumerate().all(|(offset, want)| {
            tokens.get(at + offset).is_some_and(|token| match &token.piece {
                Piece::Word(word) => word == want,
                Piece::Sign(sign) => want.len() == 1 && want.starts_with(*sign),
                _ => false,
            })
        })
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !begins(at) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let Some(end) = item_end(&tokens, at + cfg_test.len()) else { break };
        at = if tokens[end].piece == Piece::Sign('{') { closing(&tokens, end) + 1 } else { end + 1 };
    }
    kept
}

struct Cutter<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

fn cut(text: &str) -> Vec<Token> {
    let mut cutter = Cutter { rest: text, line: 1, tokens: Vec::new() };
    while !cutter.rest.is_empty() {
        cutter.next();
    }
    cutter.tokens
}

impl Cutter<'_> {
    fn next(&mut self) {
        let rest = self.rest;
        let first = rest.chars().next().unwrap_or(' ');
        if rest.starts_with("//") {
            self.take(rest.find('\n').unwrap_or(rest.len()), None);
        } else if rest.starts_with("/*") {
            self.take(block_comment(rest), None);
        } else if let Some(length) = string(rest) {
            self.take(length, Some(Piece::Literal));
        } else if first == '\'' {
            self.take(quote(rest), Some(Piece::Literal));
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.take(length, Some(Piece::Word(rest[..length].to_owned())));
        } else if rest.starts_with("::") {
            self.take(2, Some(Piece::PathSeparator));
        } else {
            let piece = (!first.is_whitespace()).then_some(Piece::Sign(first));
            self.take(first.len_utf8(), piece);
        }
    }

    fn take(&mut self, length: usize, piece: Option<Piece>) {
        let line = self.line;
        self.line += self.rest[..length].matches('\n').count();
        self.rest = &self.rest[length..];
        self.tokens.extend(piece.map(|piece| Token { piece, line, last_line: self.line }));
    }
}

/// The length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the string that `rest` begins with: plain, raw, of bytes, or for C.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.len() - rest.trim_start_matches(['b', 'r', 'c']).len();
    let opened = &rest[prefix..];
    if prefix > 2 {
        return None;
    }
    if rest[..prefix].ends_with('r') {
        let hashes = opened.len() - opened.trim_start_matches('#').len();
        let body = opened[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&end).map_or(rest.len(), |at| prefix + hashes + 1 + at + end.len()));
    }
    let body = opened.strip_prefix('"')?;
    let mut escaped = false;
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(prefix + 1 + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of the character (`'x'`, `'\''`) or lifetime (`'x`) that `rest` begins with.
fn quote(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    let Some((_, first)) = letters.next() else { return 1 };
    if first == '\\' {
        letters.next();
        return letters.find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1);
    }
    match letters.next() {
        Some((at, '\'')) => at + 1,
        _ => 1,
    }
}
