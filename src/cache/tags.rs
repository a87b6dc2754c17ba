//! Tags: words by which an instance lets its answers be purged together (`Surrogate-Key`, `Cache-Tag`).
//! Bounded, and an answer with more than is kept is not stored: a purge must never miss one.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// Tags of one answer.
pub const TAGS_MAX: usize = 256;

/// Bytes of one tag.
pub const TAG_BYTES_MAX: usize = 1024;

/// What a tag costs beside its letters: its allocation and its place in the index.
const TAG_OVERHEAD: u64 = 96;

/// The tags of an answer, each once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Option<Arc<[Box<str>]>>);

/// An answer has more or longer tags than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Tags {
    /// Reads the fields of these names; tags are parted by blanks or commas. None where there is no such field.
    ///
    /// # Errors
    /// More than [`TAGS_MAX`], one longer than [`TAG_BYTES_MAX`], or one that is no text.
    pub fn read(headers: &HeaderMap, names: &[HeaderName]) -> Result<Option<Self>, TooMany> {
        if !names.iter().any(|name| headers.contains_key(name)) {
            return Ok(None);
        }
        let mut tags: Vec<&str> = Vec::new();
        for value in names.iter().flat_map(|name| headers.get_all(name)) {
            let text = value.to_str().map_err(|_| TooMany)?;
            tags.extend(text.split([' ', '\t', ',']).filter(|tag| !tag.is_empty()));
        }
        tags.sort_unstable();
        tags.dedup();
        if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > TAG_BYTES_MAX) {
            return Err(TooMany);
        }
        Ok(Some(Self::of(tags)))
    }

    /// These, which may come more than once.
    pub(super) fn of(mut tags: Vec<&str>) -> Self {
        tags.sort_unstable();
        tags.dedup();
        Self((!tags.is_empty()).then(|| tags.into_iter().map(Box::from).collect()))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|tags| tags.iter()).map(|tag| &**tag)
    }

    /// Whether it is one of them.
    pub fn has(&self, tag: &str) -> bool {
        self.0.as_ref().is_some_and(|tags| tags.binary_search_by(|other| (**other).cmp(tag)).is_ok())
    }

    /// Bytes that they take.
    pub fn weight(&self) -> u64 {
        self.iter().map(|tag| tag.len() as u64 + TAG_OVERHEAD).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [HeaderName; 2] = [HeaderName::from_static("surrogate-key"), HeaderName::from_static("cache-tag")];

    fn read(fields: &[(&'static str, &str)]) -> Result<Option<Tags>, TooMany> {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Tags::read(&fields.collect(), &NAMES)
    }

    #[test]
    fn tags_are_parted_by_blanks_and_commas() {
        let tags = read(&[("surrogate-key", "b a  b"), ("cache-tag", "c,a, d")]).unwrap().unwrap();
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(tags.has("c") && !tags.has("C") && !tags.has(""));
        assert_eq!(tags.weight(), 4 * 97);
    }

    #[test]
    fn no_field_is_not_the_same_as_no_tag() {
        assert_eq!(read(&[("etag", "1")]), Ok(None));
        assert_eq!(read(&[("cache-tag", " ,")]), Ok(Some(Tags::default())));
    }

    #[test]
    fn more_than_is_kept_is_told() {
        let many = |count: usize| (0..count).map(|number| format!("t{number} ")).collect::<String>();
        assert!(read(&[("surrogate-key", &many(TAGS_MAX))]).is_ok());
        assert_eq!(read(&[("surrogate-key", &many(TAGS_MAX + 1))]), Err(TooMany));
        assert_eq!(read(&[("cache-tag", &"x".repeat(TAG_BYTES_MAX + 1))]), Err(TooMany));
    }
}
