//! Finds keys in any text, offline: by their prefix, their length and their checksum. For people who mistyped one, and for
//! scanners that look for leaks. Not here: whether a key is known, which only its digest tells.

use super::new_key::{KEY_LENGTH, PREFIX, looks_like_key};

/// What looks like a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole text of it. It may be a secret: nothing shows more than [`shown`] of it.
    pub text: &'a str,
    /// Whether the checksum is right: then it is a key that `tollgate keys new` made.
    pub is_key: bool,
}

/// Everything in `text` that begins like a key and is about as long as one.
pub fn candidates(text: &str) -> Vec<Candidate<'_>> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices(PREFIX) {
            let rest = &line[at + PREFIX.len()..];
            let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
            let candidate = &line[at..at + PREFIX.len() + length];
            // One character too few or too many is a typo; a word with the same beginning is none.
            if candidate.len().abs_diff(KEY_LENGTH) <= 2 {
                let column = line[..at].chars().count() + 1;
                found.push(Candidate { line: number + 1, column, text: candidate, is_key: looks_like_key(candidate) });
            }
        }
    }
    found
}

/// As much of a key as may be shown: enough to tell it from others, too little to use it.
pub fn shown(key: &str) -> String {
    format!("{}…", key.chars().take(PREFIX.len() + 4).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::NewKey;
    use super::*;

    #[test]
    fn keys_are_found_in_any_text() {
        let (one, two) = (NewKey::generate().unwrap().key, NewKey::generate().unwrap().key);
        let text = format!("a: \"{one}\"\nübrigens {two}, tg_short and xtg_notakey\ncurl -H 'X-API-Key:{one}'\n");
        let found: Vec<_> =
            candidates(&text).into_iter().map(|found| (found.line, found.column, found.is_key)).collect();
        assert_eq!(found, [(1, 5, true), (2, 10, true), (3, 20, true)]);
    }

    #[test]
    fn a_typo_is_found_and_is_no_key() {
        let key = NewKey::generate().unwrap().key;
        let swapped = format!("{}{}{}", &key[..10], if &key[10..11] == "x" { "y" } else { "x" }, &key[11..]);
        for typo in [swapped.as_str(), &key[..key.len() - 1], &format!("{key}x")] {
            let found = candidates(typo);
            assert_eq!((found.len(), found[0].is_key), (1, false), "{typo}");
        }
    }

    #[test]
    fn little_of_a_key_is_shown() {
        let key = NewKey::generate().unwrap().key;
        assert_eq!(shown(&key), format!("{}…", &key[..7]));
    }
}
