//! Auth: whose key a request carries, and whether that consumer may use the route.
//! The first place of `key_in` that holds something decides, whatever the later ones hold; what is ambiguous is refused.
//! A route with `keys: none` reads no credential. Not here: removing what was used as the key before a request
//! is forwarded (the gateway does it, with [`Identified::used`]).

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::config::{KeyPlace, KeyRule};
use crate::keys::{KeyEntry, KeyTable, NameId, name_id};
use crate::refusal::Refusal;

/// The auth policy of one route.
#[derive(Clone, Debug)]
pub struct Auth {
    rule: Rule,
    places: Box<[KeyPlace]>,
    keys: Arc<KeyTable>,
    no_key: HeaderValue,
    unknown_key: HeaderValue,
}

#[derive(Clone, Debug)]
enum Rule {
    Required,
    Anonymous,
    Consumers(Box<[NameId]>),
}

/// Who calls, and where the key was.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The key that was used.
    pub entry: Arc<KeyEntry>,
    /// The header that held it, which must not reach the instance.
    pub used: HeaderName,
}

/// What one place holds.
enum Held<'a> {
    Nothing,
    Key(&'a [u8]),
    Ambiguous,
}

impl Auth {
    /// Compiles `routes.X.keys` (or `defaults.keys`) with `key_in` and the table of keys.
    pub fn compile(rule: &KeyRule, key_in: &[KeyPlace], keys: Arc<KeyTable>) -> Self {
        let rule = match rule {
            KeyRule::Required => Rule::Required,
            KeyRule::None => Rule::Anonymous,
            KeyRule::Consumers(names) => Rule::Consumers(names.iter().map(|name| name_id(name)).collect()),
        };
        let (no_key, unknown_key) = challenges(key_in);
        Self { rule, places: key_in.into(), keys, no_key, unknown_key }
    }

    /// Whether the route is open to everyone.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.rule, Rule::Anonymous)
    }

    /// Who calls; `None` where the route is open to everyone.
    ///
    /// # Errors
    /// `NoKey` when no place holds anything, `UnknownKey` when what it holds is not one configured key,
    /// `KeyNotAllowed` when the key's consumer may not use this route.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<Identified>, Refusal> {
        if matches!(self.rule, Rule::Anonymous) {
            return Ok(None);
        }
        for place in &self.places {
            let (header, held) = match place {
                KeyPlace::Header(name) => (name, held_by_header(headers, name)),
                KeyPlace::Bearer => (&AUTHORIZATION, held_as_bearer(headers)),
            };
            match held {
                Held::Nothing => {}
                Held::Key(key) => return self.admit(key, header).map(Some),
                Held::Ambiguous => return Err(self.unknown()),
            }
        }
        Err(Refusal::NoKey { challenge: self.no_key.clone() })
    }

    fn admit(&self, key: &[u8], header: &HeaderName) -> Result<Identified, Refusal> {
        let entry = self.keys.find(key).ok_or_else(|| self.unknown())?;
        let allowed = match &self.rule {
            Rule::Required | Rule::Anonymous => true,
            Rule::Consumers(consumers) => consumers.contains(&entry.consumer_id),
        };
        if !allowed {
            return Err(Refusal::KeyNotAllowed);
        }
        Ok(Identified { entry: Arc::clone(entry), used: header.clone() })
    }

    fn unknown(&self) -> Refusal {
        Refusal::UnknownKey { challenge: self.unknown_key.clone() }
    }
}

/// A header holds a key when one of its values is not empty. Bytes, not text: what is not UTF-8 is held, and unknown.
fn held_by_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Held<'a> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    match (values.next(), values.next()) {
        (None, _) | (Some(b""), None) => Held::Nothing,
        (Some(key), None) => Held::Key(key),
        // Which of two the instance or another proxy would take is anyone's guess.
        (Some(first), Some(second)) if !first.is_empty() || !second.is_empty() => Held::Ambiguous,
        (Some(_), Some(_)) => values.find(|value| !value.is_empty()).map_or(Held::Nothing, |_| Held::Ambiguous),
    }
}

/// `Authorization: Bearer KEY`, the scheme in any case (RFC 9110, section 11.1). Other schemes are the instance's.
fn held_as_bearer(headers: &HeaderMap) -> Held<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter().peekable();
    let Some(first) = values.next() else { return Held::Nothing };
    if values.peek().is_none() {
        return bearer_token(first).map_or(Held::Nothing, Held::Key);
    }
    let holds_bearer = bearer_token(first).is_some() || values.any(|value| bearer_token(value).is_some());
    if holds_bearer { Held::Ambiguous } else { Held::Nothing }
}

fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes().trim_ascii();
    let (scheme, token) = value.split_at_checked(6)?;
    let token_begins = token.first().is_some_and(u8::is_ascii_whitespace);
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer") && token_begins && !token.is_empty()).then_some(token)
}

/// `WWW-Authenticate` for a missing and for an unknown key (RFC 9110 section 11.6.1, RFC 6750 section 3).
fn challenges(key_in: &[KeyPlace]) -> (HeaderValue, HeaderValue) {
    let header = key_in.iter().find_map(|place| match place {
        KeyPlace::Header(name) => Some(name),
        KeyPlace::Bearer => None,
    });
    let api_key =
        |name: &HeaderName| HeaderValue::from_str(&format!("ApiKey realm=\"tollgate\", header=\"{name}\"")).ok();
    match header.and_then(api_key) {
        Some(challenge) if !key_in.contains(&KeyPlace::Bearer) => (challenge.clone(), challenge),
        _ => (
            HeaderValue::from_static("Bearer realm=\"tollgate\""),
            HeaderValue::from_static("Bearer realm=\"tollgate\", error=\"invalid_token\""),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Key;
    use crate::keys::digest_of;

    const X: &str = "x-api-key";
    const A: &str = "authorization";

    fn keys() -> Arc<KeyTable> {
        let key = |secret: &str, consumer: &str| Key {
            sha256: digest_of(secret.as_bytes()),
            consumer: Some(consumer.into()),
            plan: None,
        };
        let keys =
            [("alice-1", key("alice", "alice")), ("alice-2", key("alice2", "alice")), ("bob", key("bob", "bob"))];
        Arc::new(KeyTable::compile(
            &keys.map(|(name, key)| (name.to_owned(), key)).into_iter().collect::<BTreeMap<_, _>>(),
        ))
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
        match Auth::compile(rule, &places(), keys()).identify(&headers(pairs)) {
            Ok(Some(found)) => format!("{} in {}", found.entry.name, found.used),
            Ok(None) => "anonymous".into(),
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
        check(&[(X, b"alice"), (X, b"alice")], "unknown_key");
        check(&[(X, b""), (X, b"alice")], "unknown_key");
        check(&[(X, b"alice"), (X, b"")], "unknown_key");
        check(&[(X, b""), (X, b""), (X, b"alice")], "unknown_key");
        check(&[(X, b"alice, bob")], "unknown_key");
        check(&[(A, b"Bearer bob"), (A, b"Basic YTpi")], "unknown_key");
        check(&[(A, b"Basic YTpi"), (A, b"Bearer bob")], "unknown_key");
        check(&[(A, b"Basic YTpi"), (A, b"Digest x")], "no_key");
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

    #[test]
    fn a_route_for_some_consumers_refuses_the_others() {
        let rule = KeyRule::Consumers(vec!["alice".into()]);
        assert_eq!(outcome(&rule, &[(X, b"alice")]), "alice-1 in x-api-key");
        assert_eq!(outcome(&rule, &[(X, b"alice2")]), "alice-2 in x-api-key");
        assert_eq!(outcome(&rule, &[(X, b"bob")]), "key_not_allowed");
        assert_eq!(outcome(&rule, &[(X, b"carol")]), "unknown_key");
        assert_eq!(outcome(&rule, &[]), "no_key");
        assert_eq!(outcome(&KeyRule::Consumers(vec![]), &[(X, b"alice")]), "key_not_allowed");
    }

    #[test]
    fn no_place_means_no_key() {
        let auth = Auth::compile(&KeyRule::Required, &[], keys());
        assert_eq!(auth.identify(&headers(&[(X, b"alice")])).unwrap_err().reason(), "no_key");
    }

    #[test]
    fn the_challenge_names_what_is_accepted() {
        let challenge = |key_in: &[KeyPlace], pairs| match Auth::compile(&KeyRule::Required, key_in, keys())
            .identify(&headers(pairs))
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
