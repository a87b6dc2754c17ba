//! Auth: whose key a request carries (`identify`), and whether that key may be used on the route now (`permit`).
//! The first place of `key_in` that holds something decides, whatever the later ones hold; two values in one place are refused.
//! A route with `keys: none` reads no credential. Not here: removing what was used as the key before a request
//! is forwarded (the gateway does it, with [`Identified`]).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use crate::config::{KeyPlace, KeyRule, Mode};
use crate::keys::{KeyEntry, LiveKeys, NameId, name_id};
use crate::refusal::Refusal;

/// The auth policy of one route.
#[derive(Clone, Debug)]
pub struct Auth {
    rule: Rule,
    places: Box<[KeyPlace]>,
    keys: Arc<LiveKeys>,
    no_key: HeaderValue,
    unknown_key: HeaderValue,
    expired_key: HeaderValue,
}

#[derive(Clone, Debug)]
enum Rule {
    Required,
    Anonymous,
    Only(Access),
}

/// Whom a route admits among those who have a key: every list that is not empty has to hold.
#[derive(Clone, Debug)]
struct Access {
    consumers: Box<[NameId]>,
    plans: Box<[NameId]>,
    labels: Box<[NameId]>,
    mode: Mode,
}

/// Who calls, and where the key was: that place must not reach the instance.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The key that was used.
    pub entry: Arc<KeyEntry>,
    /// The header that held it; none where the query did.
    pub header: Option<HeaderName>,
}

/// What one place holds.
enum Held<'a> {
    Nothing,
    Key(Cow<'a, [u8]>),
    Ambiguous,
}

impl Auth {
    /// Compiles `routes.X.keys` (or `defaults.keys`) with `key_in` and the keys.
    pub fn compile(rule: &KeyRule, key_in: &[KeyPlace], keys: Arc<LiveKeys>) -> Self {
        let ids = |names: &[String]| names.iter().map(|name| name_id(name)).collect();
        let rule = match rule {
            KeyRule::Required => Rule::Required,
            KeyRule::None => Rule::Anonymous,
            KeyRule::Only(access) => Rule::Only(Access {
                consumers: ids(&access.consumers),
                plans: ids(&access.plan),
                labels: ids(&access.label),
                mode: access.mode,
            }),
        };
        let [no_key, unknown_key, expired_key] = challenges(key_in);
        Self { rule, places: key_in.into(), keys, no_key, unknown_key, expired_key }
    }

    /// Whether the route is open to everyone.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.rule, Rule::Anonymous)
    }

    /// Who calls; `None` where the route is open to everyone. `query` is the query string as it came.
    ///
    /// # Errors
    /// `NoKey` when no place holds anything, `AmbiguousKey` when the first that holds something holds two values, `UnknownKey`
    /// when what it holds is no key, `KeysUnavailable` when that can't be told because the key store was never read.
    pub fn identify(&self, headers: &HeaderMap, query: Option<&[u8]>) -> Result<Option<Identified>, Refusal> {
        if matches!(self.rule, Rule::Anonymous) {
            return Ok(None);
        }
        for place in &self.places {
            let (header, held) = match place {
                KeyPlace::Header(name) => (Some(name), held_by_header(headers, name)),
                KeyPlace::Bearer => (Some(&AUTHORIZATION), held_as_bearer(headers)),
                KeyPlace::Query(name) => (None, held_by_query(query.unwrap_or_default(), name)),
            };
            match held {
                Held::Nothing => {}
                Held::Ambiguous => return Err(Refusal::AmbiguousKey),
                Held::Key(key) => {
                    let entry = self.keys.find(&key).ok_or_else(|| self.unknown())?;
                    return Ok(Some(Identified { entry, header: header.cloned() }));
                }
            }
        }
        Err(Refusal::NoKey { challenge: self.no_key.clone() })
    }

    /// Whether this key may be used here and now; the reason, where it would have been refused but for `mode: observe`.
    ///
    /// # Errors
    /// `ExpiredKey` from the moment that the key names, `NotAllowed` when its consumer may not use this route.
    pub fn permit(&self, entry: &KeyEntry, now: SystemTime) -> Result<Option<&'static str>, Refusal> {
        if entry.expires.is_some_and(|expires| now >= SystemTime::from(expires)) {
            return Err(Refusal::ExpiredKey { challenge: self.expired_key.clone() });
        }
        match &self.rule {
            Rule::Required | Rule::Anonymous => Ok(None),
            Rule::Only(access) if access.admits(entry) => Ok(None),
            Rule::Only(access) if access.mode == Mode::Observe => Ok(Some(Refusal::NotAllowed.reason())),
            Rule::Only(_) => Err(Refusal::NotAllowed),
        }
    }

    fn unknown(&self) -> Refusal {
        if self.keys.are_complete() {
            Refusal::UnknownKey { challenge: self.unknown_key.clone() }
        } else {
            Refusal::KeysUnavailable
        }
    }

    /// The query string as an instance may see it: without the parameters in which keys are looked for, wherever this key was.
    /// None where nothing has to go.
    pub fn forwarded_query(&self, query: Option<&[u8]>) -> Option<Vec<u8>> {
        let query = query.filter(|_| !self.is_anonymous())?;
        let names = || self.places.iter().filter_map(KeyPlace::query);
        let is_key = |parameter: &&[u8]| names().any(|name| named(parameter, name));
        names().next()?;
        let mut parameters = query.split(|byte| *byte == b'&');
        parameters.any(|parameter| is_key(&parameter)).then(|| {
            let kept: Vec<&[u8]> = query.split(|byte| *byte == b'&').filter(|parameter| !is_key(parameter)).collect();
            kept.join(&b'&')
        })
    }
}

impl Access {
    fn admits(&self, entry: &KeyEntry) -> bool {
        let plan = entry.plan.as_ref().map(|plan| plan.id);
        (self.consumers.is_empty() || self.consumers.contains(&entry.consumer_id))
            && (self.plans.is_empty() || plan.is_some_and(|plan| self.plans.contains(&plan)))
            && (self.labels.is_empty() || entry.labels.iter().any(|label| self.labels.contains(label)))
    }
}

/// A header holds a key when one of its values is not empty. Bytes, not text: what is not UTF-8 is held, and unknown.
/// Two lines and one line with a comma mean the same (RFC 9110 section 5.3): which of two values the instance or another proxy
/// would take is anyone's guess.
fn held_by_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Held<'a> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    match (values.next(), values.next()) {
        (None, _) | (Some(b""), None) => Held::Nothing,
        (Some(key), None) if key.contains(&b',') => Held::Ambiguous,
        (Some(key), None) => Held::Key(Cow::Borrowed(key)),
        (Some(first), Some(second)) if !first.is_empty() || !second.is_empty() => Held::Ambiguous,
        (Some(_), Some(_)) => values.find(|value| !value.is_empty()).map_or(Held::Nothing, |_| Held::Ambiguous),
    }
}

/// `Authorization: Bearer KEY`, the scheme in any case (RFC 9110, section 11.1). Other schemes are the instance's.
fn held_as_bearer(headers: &HeaderMap) -> Held<'_> {
    let mut lines = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let (Some(first), second) = (lines.next(), lines.next()) else { return Held::Nothing };
    if second.is_none() && !first.contains(&b',') {
        return bearer_token(first).map_or(Held::Nothing, |token| Held::Key(Cow::Borrowed(token)));
    }
    let values = [Some(first), second].into_iter().flatten().chain(lines);
    let mut values = values.flat_map(|line| line.split(|byte| *byte == b','));
    if values.any(|value| bearer_token(value).is_some()) { Held::Ambiguous } else { Held::Nothing }
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.trim_ascii().split_at_checked(6)?;
    let token_begins = token.first().is_some_and(u8::is_ascii_whitespace);
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && token_begins && !token.is_empty()).then_some(token)
}

fn held_by_query<'a>(query: &'a [u8], name: &str) -> Held<'a> {
    let mut found = query.split(|byte| *byte == b'&').filter(|parameter| named(parameter, name));
    match (found.next(), found.next()) {
        (None, _) => Held::Nothing,
        (Some(_), Some(_)) => Held::Ambiguous,
        (Some(parameter), None) => {
            let value = parameter.iter().position(|byte| *byte == b'=').map_or(&b""[..], |at| &parameter[at + 1..]);
            if value.is_empty() { Held::Nothing } else { Held::Key(percent_decode(value).into()) }
        }
    }
}

/// Whether a parameter `name=value` has this name, however it is encoded.
fn named(parameter: &[u8], name: &str) -> bool {
    let written = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
    written == name.as_bytes() || (written.contains(&b'%') && percent_decode(written).eq(name.bytes()))
}

/// `WWW-Authenticate` for a missing, an unknown and an expired key (RFC 9110 section 11.6.1, RFC 6750 section 3).
fn challenges(key_in: &[KeyPlace]) -> [HeaderValue; 3] {
    let header = key_in.iter().find_map(|place| match place {
        KeyPlace::Header(name) => Some(name),
        KeyPlace::Bearer | KeyPlace::Query(_) => None,
    });
    let api_key =
        |name: &HeaderName| HeaderValue::from_str(&format!("ApiKey realm=\"tollgate\", header=\"{name}\"")).ok();
    match header.and_then(api_key) {
        Some(challenge) if !key_in.contains(&KeyPlace::Bearer) => [challenge.clone(), challenge.clone(), challenge],
        _ => [
            "Bearer realm=\"tollgate\"",
            "Bearer realm=\"tollgate\", error=\"invalid_token\"",
            "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"The key has expired\"",
        ]
        .map(HeaderValue::from_static),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Expiry, Key, KeyAccess};
    use crate::keys::{KeyTable, digest_of};

    const X: &str = "x-api-key";
    const A: &str = "authorization";

    fn keys() -> Arc<LiveKeys> {
        let key = |secret: &str, consumer: &str| Key {
            consumer: Some(consumer.into()),
            ..Key::new(digest_of(secret.as_bytes()))
        };
        let old = Key { expires: Some(Expiry(at(100).try_into().unwrap())), ..key("old", "alice") };
        let bob = Key { plan: Some("gold".into()), labels: vec!["internal".into()], ..key("bob", "bob") };
        let keys =
            [("alice-1", key("alice", "alice")), ("alice-2", key("alice2", "alice")), ("bob", bob), ("old", old)];
        let keys = keys.map(|(name, key)| (name.to_owned(), key)).into_iter().collect::<BTreeMap<_, _>>();
        Arc::new(LiveKeys::of_table(KeyTable::compile(&keys)))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    }

    fn places() -> Vec<KeyPlace> {
        vec![KeyPlace::Header(HeaderName::from_static(X)), KeyPlace::Bearer]
    }

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn outcome(rule: &KeyRule, pairs: &[(&'static str, &[u8])]) -> String {
        let auth = Auth::compile(rule, &places(), keys());
        let found = match auth.identify(&headers(pairs), None) {
            Ok(Some(found)) => found,
            Ok(None) => return "anonymous".into(),
            Err(refusal) => return refusal.reason().into(),
        };
        match auth.permit(&found.entry, at(99)) {
            Ok(None) => format!("{} in {}", found.entry.name, found.header.unwrap()),
            Ok(Some(reason)) => format!("{} observed: {reason}", found.entry.name),
            Err(refusal) => refusal.reason().into(),
        }
    }

    fn check(pairs: &[(&'static str, &[u8])], expected: &str) {
        assert_eq!(outcome(&KeyRule::Required, pairs), expected, "{pairs:?}");
    }

    #[test]
    fn a_request_without_a_key_is_refused() {
        check(&[], "no_key");
        check(&[(X, b"")], "no_key");
        check(&[(X, b"  "), (X, b"")], "no_key");
        check(&[(A, b"Bearer")], "no_key");
        check(&[(A, b"Bearer   ")], "no_key");
        check(&[(A, b"Basic YTpi")], "no_key");
        check(&[(A, b"Bearerbob")], "no_key");
        check(&[(A, b"")], "no_key");
        check(&[("x_api_key", b"bob")], "no_key");
        check(&[("cookie", b"x-api-key=bob")], "no_key");
    }

    #[test]
    fn a_key_is_found_in_either_place() {
        check(&[(X, b"alice")], "alice-1 in x-api-key");
        check(&[(X, b" alice2\t")], "alice-2 in x-api-key");
        check(&[(A, b"Bearer bob")], "bob in authorization");
        check(&[(A, b"bEARER\t bob ")], "bob in authorization");
    }

    #[test]
    fn the_first_place_that_holds_something_decides() {
        check(&[(X, b"alice"), (A, b"Bearer bob")], "alice-1 in x-api-key");
        check(&[(X, b"wrong"), (A, b"Bearer bob")], "unknown_key");
        check(&[(X, b"\xff"), (A, b"Bearer bob")], "unknown_key");
        check(&[(X, b" "), (A, b"Bearer bob")], "bob in authorization");
        check(&[(X, b"alice"), (A, b"Basic YTpi")], "alice-1 in x-api-key");
    }

    #[test]
    fn several_values_are_refused() {
        check(&[(X, b"alice"), (X, b"alice")], "ambiguous_key");
        check(&[(X, b""), (X, b"alice")], "ambiguous_key");
        check(&[(X, b"alice"), (X, b"")], "ambiguous_key");
        check(&[(X, b""), (X, b""), (X, b"alice")], "ambiguous_key");
        check(&[(X, b"alice, bob")], "ambiguous_key");
        check(&[(X, b"alice,")], "ambiguous_key");
        check(&[(X, b"alice,bob"), (A, b"Bearer bob")], "ambiguous_key");
        check(&[(A, b"Bearer bob"), (A, b"Basic YTpi")], "ambiguous_key");
        check(&[(A, b"Basic YTpi"), (A, b"Bearer bob")], "ambiguous_key");
        check(&[(A, b"Bearer bob, Bearer alice")], "ambiguous_key");
        check(&[(A, b"Basic YTpi, Bearer bob")], "ambiguous_key");
        check(&[(A, b"Basic YTpi"), (A, b"Digest x")], "no_key");
        check(&[(A, b"Digest username=\"a\", realm=\"b\"")], "no_key");
    }

    #[test]
    fn unknown_keys_are_refused() {
        check(&[(X, b"Alice")], "unknown_key");
        check(&[(X, b"alice\xc3\xa4")], "unknown_key");
        check(&[(A, b"Bearer bob bob")], "unknown_key");
        check(&[(X, &[b'k'; 8192])], "unknown_key");
        check(&[(A, b"Bearer \xff\xfe")], "unknown_key");
    }

    #[test]
    fn an_open_route_reads_no_credential() {
        let open = |pairs: &[(&'static str, &[u8])]| assert_eq!(outcome(&KeyRule::None, pairs), "anonymous");
        open(&[]);
        open(&[(X, b"wrong")]);
        open(&[(X, b"alice")]);
        open(&[(X, b"a"), (X, b"b")]);
    }

    fn only(access: KeyAccess) -> KeyRule {
        KeyRule::Only(access)
    }

    #[test]
    fn a_route_for_some_consumers_refuses_the_others() {
        let rule = only(KeyAccess { consumers: vec!["alice".into()], ..KeyAccess::default() });
        assert_eq!(outcome(&rule, &[(X, b"alice")]), "alice-1 in x-api-key");
        assert_eq!(outcome(&rule, &[(X, b"alice2")]), "alice-2 in x-api-key");
        assert_eq!(outcome(&rule, &[(X, b"bob")]), "not_allowed");
        assert_eq!(outcome(&rule, &[(X, b"carol")]), "unknown_key");
        assert_eq!(outcome(&rule, &[]), "no_key");
    }

    #[test]
    fn a_route_for_a_label_or_a_plan_admits_whose_consumer_has_it() {
        let labelled = KeyAccess { label: vec!["partner".into(), "internal".into()], ..KeyAccess::default() };
        assert_eq!(outcome(&only(labelled.clone()), &[(X, b"bob")]), "bob in x-api-key");
        assert_eq!(outcome(&only(labelled.clone()), &[(X, b"alice")]), "not_allowed");
        let gold = KeyAccess { plan: vec!["gold".into(), "silver".into()], ..KeyAccess::default() };
        assert_eq!(outcome(&only(gold.clone()), &[(X, b"bob")]), "bob in x-api-key");
        assert_eq!(outcome(&only(gold), &[(X, b"alice")]), "not_allowed");
        let both = KeyAccess { consumers: vec!["alice".into()], ..labelled };
        assert_eq!(outcome(&only(both.clone()), &[(X, b"bob")]), "not_allowed");
        assert_eq!(outcome(&only(both), &[(X, b"alice")]), "not_allowed");
    }

    #[test]
    fn observing_lets_through_whom_it_would_refuse_but_nobody_without_a_key() {
        let rule = only(KeyAccess { consumers: vec!["alice".into()], mode: Mode::Observe, ..KeyAccess::default() });
        assert_eq!(outcome(&rule, &[(X, b"bob")]), "bob observed: not_allowed");
        assert_eq!(outcome(&rule, &[(X, b"alice")]), "alice-1 in x-api-key");
        assert_eq!(outcome(&rule, &[(X, b"carol")]), "unknown_key");
        assert_eq!(outcome(&rule, &[]), "no_key");
    }

    #[test]
    fn a_key_ends_at_its_moment() {
        let auth = Auth::compile(&KeyRule::Required, &places(), keys());
        let old = auth.identify(&headers(&[(X, b"old")]), None).unwrap().unwrap().entry;
        assert_eq!(auth.permit(&old, at(99)), Ok(None));
        assert_eq!(auth.permit(&old, at(100)).unwrap_err().reason(), "expired_key");
        assert_eq!(auth.permit(&old, at(101)).unwrap_err().reason(), "expired_key");
    }

    #[test]
    fn a_parameter_is_read_only_where_it_is_switched_on_and_never_forwarded() {
        let query = |query: &str| {
            let places = [KeyPlace::Header(HeaderName::from_static(X)), KeyPlace::Query("api_key".into())];
            let auth = Auth::compile(&KeyRule::Required, &places, keys());
            let found = auth.identify(&headers(&[]), Some(query.as_bytes()));
            let found = found.map(|found| found.unwrap()).map_err(|refusal| refusal.reason());
            assert!(found.as_ref().is_ok_and(|found| found.header.is_none()) || found.is_err());
            let left = auth.forwarded_query(Some(query.as_bytes())).map(|left| String::from_utf8(left).unwrap());
            (found.map_or_else(str::to_owned, |found| found.entry.name.to_string()), left)
        };
        let left = |text: &str| Some(text.to_owned());
        assert_eq!(query("api_key=alice"), ("alice-1".into(), left("")));
        assert_eq!(query("a=1&api_key=al%69ce&b=2"), ("alice-1".into(), left("a=1&b=2")));
        assert_eq!(query("a=1&api%5Fkey=alice"), ("alice-1".into(), left("a=1")));
        assert_eq!(query("api_key=alice&api_key=bob"), ("ambiguous_key".into(), left("")));
        assert_eq!(query("a=1&api_key="), ("no_key".into(), left("a=1")));
        assert_eq!(query("a=1&api_keys=alice&API_KEY=alice"), ("no_key".into(), None));
        let off = Auth::compile(&KeyRule::Required, &places(), keys());
        assert_eq!(off.identify(&headers(&[]), Some(b"api_key=alice")).unwrap_err().reason(), "no_key");
        assert_eq!(off.forwarded_query(Some(b"api_key=alice")), None);
        let open = Auth::compile(&KeyRule::None, &[KeyPlace::Query("api_key".into())], keys());
        assert_eq!(open.forwarded_query(Some(b"api_key=alice")), None);
    }

    #[test]
    fn no_place_means_no_key() {
        let auth = Auth::compile(&KeyRule::Required, &[], keys());
        assert_eq!(auth.identify(&headers(&[(X, b"alice")]), None).unwrap_err().reason(), "no_key");
    }

    #[test]
    fn the_challenge_names_what_is_accepted() {
        let challenge = |key_in: &[KeyPlace], pairs| match Auth::compile(&KeyRule::Required, key_in, keys())
            .identify(&headers(pairs), None)
        {
            Err(Refusal::NoKey { challenge } | Refusal::UnknownKey { challenge }) => challenge,
            other => panic!("{other:?}"),
        };
        let header = [KeyPlace::Header(HeaderName::from_static("x-token"))];
        assert_eq!(challenge(&places(), &[]), "Bearer realm=\"tollgate\"");
        assert_eq!(challenge(&places(), &[(X, b"wrong")]), "Bearer realm=\"tollgate\", error=\"invalid_token\"");
        assert_eq!(challenge(&header, &[]), "ApiKey realm=\"tollgate\", header=\"x-token\"");
        assert_eq!(challenge(&header, &[("x-token", b"wrong")]), "ApiKey realm=\"tollgate\", header=\"x-token\"");
    }
}
