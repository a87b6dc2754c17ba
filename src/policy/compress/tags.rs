//! Entity tags of answers that are compressed on their way (RFC 9110 sections 8.8.3 and 13.1.2): a strong one promises the same
//! bytes, so it is made weak; what comes back weak may have been strong at the instance.

use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};

/// What makes a tag weak.
const WEAK: &[u8] = b"W/";

/// The tag of an answer in its weak form, where it is strong.
pub(super) fn weakened(answer: &HeaderMap) -> Option<HeaderValue> {
    let tag = answer.get(ETAG)?.as_bytes();
    if !tag.starts_with(b"\"") {
        return None;
    }
    HeaderValue::from_bytes(&[WEAK, tag].concat()).ok()
}

/// Whether the answer has a weak tag.
pub(super) fn is_weak(answer: &HeaderMap) -> bool {
    answer.get(ETAG).is_some_and(|tag| tag.as_bytes().starts_with(WEAK))
}

/// Whether a request knows the answer with this tag, which is strong, by its weak form only.
pub(super) fn is_known_as_weak(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(tag) = answer.get(ETAG) else { return false };
    let mut known = false;
    for (weak, strong) in asked(request) {
        if strong == tag.as_bytes() {
            if !weak {
                return false;
            }
            known = true;
        }
    }
    known
}

/// `If-None-Match` with the strong form of each weak tag beside it; none where there is nothing to add.
pub(super) fn with_strong_forms(request: &HeaderMap) -> Option<HeaderValue> {
    let tags: Vec<(bool, &[u8])> = asked(request).collect();
    let missing: Vec<&[u8]> = tags
        .iter()
        .filter(|(weak, strong)| *weak && !tags.contains(&(false, strong)))
        .map(|(_, strong)| *strong)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let lines = request.get_all(IF_NONE_MATCH).into_iter().map(HeaderValue::as_bytes);
    let all: Vec<&[u8]> = lines.chain(missing).collect();
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

/// The tags of `If-None-Match`: whether each is weak, and its strong form, quotes included. What is no tag is left out.
fn asked(request: &HeaderMap) -> impl Iterator<Item = (bool, &[u8])> {
    request.get_all(IF_NONE_MATCH).into_iter().flat_map(|line| {
        let mut rest = line.as_bytes();
        std::iter::from_fn(move || {
            let start = rest.iter().position(|byte| *byte == b'"')?;
            let end = start + 1 + rest[start + 1..].iter().position(|byte| *byte == b'"')?;
            let found = (rest[..start].ends_with(WEAK), &rest[start..=end]);
            rest = &rest[end + 1..];
            Some(found)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_NONE_MATCH, line.parse().unwrap());
        }
        headers
    }

    fn answer(tag: &str) -> HeaderMap {
        HeaderMap::from_iter([(ETAG, tag.parse().unwrap())])
    }

    #[test]
    fn only_a_strong_tag_is_made_weak() {
        assert_eq!(weakened(&answer("\"a\"")).unwrap(), "W/\"a\"");
        assert_eq!(weakened(&answer("W/\"a\"")), None);
        assert_eq!(weakened(&answer("a")), None);
        assert_eq!(weakened(&HeaderMap::new()), None);
        assert!(is_weak(&answer("W/\"a\"")) && !is_weak(&answer("\"a\"")) && !is_weak(&HeaderMap::new()));
    }

    #[test]
    fn a_weak_tag_is_asked_in_both_forms() {
        let both = |lines| with_strong_forms(&asks(lines)).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(both(&["W/\"a\""]).unwrap(), "W/\"a\", \"a\"");
        assert_eq!(both(&["W/\"a, b\",\"c\"", "W/\"d\""]).unwrap(), "W/\"a, b\",\"c\", W/\"d\", \"a, b\", \"d\"");
        for lines in [&["\"a\""][..], &["W/\"a\", \"a\""], &["*"], &["W/\"a"], &["W/"], &[]] {
            assert_eq!(both(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn who_knows_the_weak_form_only() {
        let knows = |line, tag| is_known_as_weak(&asks(&[line]), &answer(tag));
        assert!(knows("W/\"a\"", "\"a\"") && knows("\"b\", W/\"a\"", "\"a\""));
        assert!(!knows("W/\"a\", \"a\"", "\"a\"") && !knows("\"a\"", "\"a\"") && !knows("W/\"b\"", "\"a\""));
        assert!(!knows("*", "\"a\"") && !knows("W/\"a\"", "W/\"a\""));
    }
}
