//! `Vary`: which header fields of a request choose between the stored answers of one key (RFC 9111 section 4.1).
//! Values are compared in a normal form: white space, case and order that mean nothing do not tell requests apart.
//! Beside the answer to equal values, one that the instance would have chosen for others is taken: the language that the
//! request likes best, and the coding that was chosen although more were at hand.
//! Not here: `Vary: *` and fields that the gateway itself writes, whose answers are never stored (`freshness.rs`).

use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, COOKIE, VARY};
use http::{HeaderMap, HeaderName};
use pingora_cache::VarianceBuilder;
use pingora_cache::key::HashBinary;
use smallvec::SmallVec;

use super::explain::readable;

/// What stands for a field that the request does not have; no normal form of one that it has is like it.
const ABSENT: &[u8] = b"-";

/// The values of a request that chose an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The nominated fields, sorted, each once.
    names: Vec<HeaderName>,
    /// Their values in normal form.
    values: Values,
}

type Values = SmallVec<[Vec<u8>; 2]>;

/// The nominated names, sorted, each once; `None` where one of them is `*` or no field name.
pub fn nominated(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in response.get_all(VARY) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if name == b"*" {
                return None;
            }
            if !name.is_empty() {
                names.push(HeaderName::from_bytes(name).ok()?);
            }
        }
    }
    Some(sorted(names))
}

fn sorted(mut names: Vec<HeaderName>) -> Vec<HeaderName> {
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

impl Selected {
    /// The fields and their values in normal form, which [`Self::from_parts`] reads again.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.names.iter().zip(&self.values).map(|(name, value)| (name.as_str(), &**value))
    }

    /// From what [`Self::parts`] told; none where a name is none.
    pub(super) fn from_parts(parts: Vec<(String, Vec<u8>)>) -> Option<Self> {
        let (names, values): (Vec<String>, Values) = parts.into_iter().unzip();
        let names = names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        Some(Self { names: names.collect::<Option<_>>()?, values })
    }

    /// For people, each as `name: value`; what opens a door is not shown.
    pub fn tell(&self) -> impl Iterator<Item = String> {
        self.names.iter().zip(&self.values).map(|(name, value)| {
            let is_secret = [COOKIE, AUTHORIZATION].contains(name);
            match value.split_first() {
                Some((b'+', _)) if is_secret => format!("{name}: (hidden)"),
                // Of lists by weight: what everyone gives the full one.
                Some((b'+', value)) => {
                    format!("{name}: {}", readable(value).replace(";1000,", ",").trim_end_matches(','))
                }
                _ => format!("{name}: (none)"),
            }
        })
    }

    /// What chose this answer to this request; `always` are fields that count although no `Vary` says so.
    /// None where the answer does not vary.
    pub fn of(response: &HeaderMap, always: &[HeaderName], request: &HeaderMap) -> Option<Self> {
        let mut names = nominated(response)?;
        names.extend_from_slice(always);
        let names = sorted(names);
        (!names.is_empty()).then(|| Self { values: values(&names, request), names })
    }

    /// Whether both tell requests apart by the same fields.
    pub fn has_names_of(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| self.names == other.names)
    }

    /// What the variant is known by.
    pub fn variance(&self) -> Option<HashBinary> {
        variance(&self.names, &self.values)
    }

    /// The variant that a request asks for, among those whose `Selected` and answer are given; without a fitting one, what
    /// its own would be known by.
    pub fn asked<'a>(
        &self,
        request: &HeaderMap,
        stored: impl Iterator<Item = (&'a Self, &'a HeaderMap)>,
    ) -> Option<HashBinary> {
        let values = values(&self.names, request);
        let mut fitting = None;
        for (other, answer) in stored.filter(|(other, _)| other.names == self.names) {
            if other.values == values {
                return other.variance();
            }
            if fitting.is_none() && other.fits(&values, answer) {
                fitting = Some(other);
            }
        }
        fitting.map_or_else(|| variance(&self.names, &values), Self::variance)
    }

    fn fits(&self, values: &Values, answer: &HeaderMap) -> bool {
        self.names.iter().zip(&self.values).zip(values).all(|((name, stored), asked)| {
            stored == asked
                || (*name == ACCEPT_LANGUAGE && likes_language_best(asked, answer))
                || (*name == ACCEPT_ENCODING && would_be_encoded_alike(stored, asked, answer))
        })
    }
}

fn values(names: &[HeaderName], request: &HeaderMap) -> Values {
    names.iter().map(|name| normal_value(request, name)).collect()
}

fn variance(names: &[HeaderName], values: &Values) -> Option<HashBinary> {
    let mut variance = VarianceBuilder::new();
    for (name, value) in names.iter().zip(values) {
        variance.add_owned_value(name.as_str(), value.clone());
    }
    variance.finalize()
}

/// The field's lines as one value; the leading byte tells an empty one from none.
fn normal_value(request: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let mut lines = request.get_all(name).iter();
    let Some(first) = lines.next() else { return ABSENT.to_vec() };
    let mut value = first.as_bytes().to_vec();
    for line in lines {
        value.push(b',');
        value.extend_from_slice(line.as_bytes());
    }
    let mut normal = vec![b'+'];
    if (*name == ACCEPT_ENCODING || *name == ACCEPT_LANGUAGE)
        && let Some(mut choices) = choices(&value)
    {
        // Best first; among equals the order means nothing.
        choices.sort_unstable_by(|(one, likes), (other, likes_other)| likes_other.cmp(likes).then(one.cmp(other)));
        for (token, likes) in choices {
            normal.extend_from_slice(format!("{token};{likes},").as_bytes());
        }
        return normal;
    }
    normal.extend_from_slice(&without_space_at_commas(&value));
    normal
}

/// White space beside a comma means nothing in a list; within quotes it does.
fn without_space_at_commas(value: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(value.len());
    let (mut quoted, mut escaped) = (false, false);
    for byte in value.trim_ascii() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                while normal.last().is_some_and(u8::is_ascii_whitespace) {
                    normal.pop();
                }
            }
            b' ' | b'\t' if !quoted && normal.last() == Some(&b',') => continue,
            _ => {}
        }
        normal.push(*byte);
    }
    normal
}

/// `gzip, br;q=0.5` as lower-case tokens with their weight in thousandths; none for anything else.
fn choices(value: &[u8]) -> Option<Vec<(String, u16)>> {
    let text = std::str::from_utf8(value).ok()?.to_ascii_lowercase();
    let mut choices = Vec::new();
    for choice in text.split(',').map(str::trim).filter(|choice| !choice.is_empty()) {
        let (token, likes) = match choice.split_once(';') {
            None => (choice, 1_000),
            Some((token, weight)) => (token.trim_end(), weight_of(weight.trim().strip_prefix("q=")?)?),
        };
        if token.bytes().any(|byte| byte.is_ascii_whitespace() || b";\"=".contains(&byte)) {
            return None;
        }
        choices.push((token.to_owned(), likes));
    }
    Some(choices)
}

/// `0.5` is 500 (RFC 9110 section 12.4.2).
fn weight_of(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let weight = whole.parse::<u16>().ok()? * 1_000 + format!("{fraction:0<3}").parse::<u16>().ok()?;
    (weight <= 1_000).then_some(weight)
}

/// Reads a normal form back.
fn normal_choices(normal: &[u8]) -> Option<Vec<(&str, u16)>> {
    let text = std::str::from_utf8(normal.strip_prefix(b"+")?).ok()?;
    let choices = text.split_terminator(',').map(|choice| {
        let (token, likes) = choice.rsplit_once(';')?;
        Some((token, likes.parse().ok()?))
    });
    choices.collect()
}

/// Whether the answer is in the language that the request likes best, more than any other.
fn likes_language_best(asked: &[u8], answer: &HeaderMap) -> bool {
    let mut languages = answer.get_all(CONTENT_LANGUAGE).iter();
    let (Some(language), None) = (languages.next(), languages.next()) else { return false };
    let Some(choices) = normal_choices(asked) else { return false };
    match choices[..] {
        [(best, likes), (_, likes_next), ..] if likes > likes_next => {
            language.as_bytes().eq_ignore_ascii_case(best.as_bytes())
        }
        [(best, 1..)] => language.as_bytes().eq_ignore_ascii_case(best.as_bytes()),
        _ => false,
    }
}

/// Whether the instance, which chose the answer's coding with all that `stored` accepts at hand, would choose it for `asked`
/// too: it accepts that coding, nothing that was not at hand, and likes all of it equally well.
fn would_be_encoded_alike(stored: &[u8], asked: &[u8], answer: &HeaderMap) -> bool {
    let mut codings = answer.get_all(CONTENT_ENCODING).iter();
    let coding = codings.next().map(|coding| coding.as_bytes().trim_ascii());
    if codings.next().is_some() {
        return false;
    }
    // Without the field anything is accepted, but hardly an instance compresses: only its like is taken for it.
    let (Some(at_hand), Some(accepted)) = (normal_choices(stored), normal_choices(asked)) else { return false };
    let plain = |choices: &[(&str, u16)]| choices.iter().all(|(token, likes)| *token != "*" && *likes == 1_000);
    let accepts = |wanted: &[u8]| accepted.iter().any(|(token, _)| wanted.eq_ignore_ascii_case(token.as_bytes()));
    plain(&at_hand)
        && plain(&accepted)
        && coding.is_none_or(accepts)
        && accepted.iter().all(|(token, _)| at_hand.iter().any(|(other, _)| token == other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    /// Whether an answer with these headers, given to the first request, is one for the second.
    fn fits(answer: &[(&'static str, &str)], first: &[(&'static str, &str)], second: &[(&'static str, &str)]) -> bool {
        let answer = headers(answer);
        let selected = Selected::of(&answer, &[], &headers(first)).unwrap();
        selected.asked(&headers(second), std::iter::once((&selected, &answer))) == selected.variance()
    }

    #[test]
    fn names_are_sorted_and_counted_once() {
        let names = nominated(&headers(&[("vary", "Accept-Language, accept"), ("vary", "Accept,")])).unwrap();
        assert_eq!(names, ["accept", "accept-language"]);
        assert_eq!(nominated(&headers(&[("vary", "accept, *")])), None);
        assert_eq!(nominated(&headers(&[("vary", "not a name")])), None);
        assert_eq!(Selected::of(&headers(&[]), &[], &headers(&[("accept", "x")])), None);
    }

    #[test]
    fn only_nominated_fields_choose() {
        let vary: &[_] = &[("vary", "Foo")];
        assert!(!fits(vary, &[("foo", "de")], &[("foo", "en")]));
        assert!(fits(vary, &[("foo", "de")], &[("foo", "de"), ("accept", "x")]));
        assert!(!fits(vary, &[], &[("foo", "")]));
        assert!(!fits(vary, &[], &[("foo", "-")]));
        assert!(fits(vary, &[("foo", "de, en")], &[("foo", "de"), ("foo", "en")]));
        assert!(fits(vary, &[("foo", "1,2")], &[("foo", " 1 , 2 ")]));
        assert!(!fits(vary, &[("foo", "\"1, 2\"")], &[("foo", "\"1,2\"")]));
        assert!(!fits(vary, &[("foo", "A")], &[("foo", "a")]));
    }

    #[test]
    fn fields_of_the_route_choose_without_vary() {
        let always = [HeaderName::from_static("foo")];
        let of = |value| Selected::of(&headers(&[]), &always, &headers(&[("foo", value)])).unwrap();
        assert_ne!(of("1").variance(), of("2").variance());
        assert!(of("1").has_names_of(Some(&of("2"))));
    }

    #[test]
    fn spelling_and_order_of_languages_do_not_choose() {
        let vary: &[_] = &[("vary", "Accept-Language")];
        let same = |one, other| fits(vary, &[("accept-language", one)], &[("accept-language", other)]);
        assert!(same("en, de", "de, en") && same("en, de", "eN,  De") && same("en;q=0.5", "en;q=0.500"));
        assert!(!same("en, de;q=0.5", "de, en;q=0.5") && !same("en", "de"));
        // What can't be read is compared as it is.
        assert!(!same("en;q=2", "en") && same("en;x", "en;x"));
    }

    #[test]
    fn the_language_liked_best_is_taken() {
        let german: &[_] = &[("vary", "Accept-Language"), ("content-language", "DE")];
        let german = |asked| fits(german, &[("accept-language", "en, de")], &[("accept-language", asked)]);
        assert!(german("fr;q=0.5, de;q=1.0") && german("de"));
        assert!(!german("fr, de;q=0.5") && !german("de;q=0") && !german("fr, de"));
    }

    #[test]
    fn a_coding_is_taken_where_the_instance_had_a_wider_choice() {
        let gzip: &[_] = &[("vary", "accept-encoding"), ("content-encoding", "gzip")];
        let fits_gzip = |stored, asked| fits(gzip, &[("accept-encoding", stored)], &[("accept-encoding", asked)]);
        assert!(fits_gzip("gzip, br", "GZIP") && fits_gzip("gzip, br", "br,gzip"));
        assert!(!fits_gzip("gzip, br", "br") && !fits_gzip("gzip", "gzip, br"));
        assert!(!fits_gzip("gzip, br", "gzip;q=0.5, br") && !fits_gzip("gzip, *", "gzip"));
        let plain: &[_] = &[("vary", "accept-encoding")];
        assert!(fits(plain, &[("accept-encoding", "gzip, br")], &[("accept-encoding", "gzip")]));
        assert!(!fits(plain, &[], &[("accept-encoding", "gzip")]));
        assert!(!fits(gzip, &[("accept-encoding", "gzip")], &[]));
    }
}
