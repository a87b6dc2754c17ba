//! Query strings for the log: the values of parameters that hold secrets are replaced.
//! Rather one too many than one too few; what is forwarded is never touched.

use pingora_http::RequestHeader;

use crate::config::KeyPlace;

/// Parts of parameter names whose values are secret.
const SECRET: [&str; 12] = [
    "key",
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "auth",
    "signature",
    "sig",
    "session",
    "credential",
    "code",
];

/// `query` with secret values replaced by `***`; secret are also those of the parameters where keys are looked for.
pub(super) fn redact(query: &str, key_in: &[KeyPlace]) -> String {
    query.split('&').map(|parameter| redact_parameter(parameter, key_in)).collect::<Vec<_>>().join("&")
}

/// What follows the first `?` of the target, as it came.
pub(super) fn raw_query(request: &RequestHeader) -> Option<&[u8]> {
    let raw = request.raw_path();
    memchr::memchr(b'?', raw).map(|mark| &raw[mark + 1..])
}

fn redact_parameter(parameter: &str, key_in: &[KeyPlace]) -> String {
    let is_key = |name: &str| key_in.iter().filter_map(KeyPlace::query).any(|place| place == name);
    match parameter.split_once('=') {
        // An encoded name could spell a secret one.
        Some((name, _)) if name.contains('%') || is_secret(name) || is_key(name) => format!("{name}=***"),
        // A parameter that is only a value may be the secret itself.
        None if parameter.len() > 16 => "***".to_owned(),
        Some(_) | None => parameter.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|secret| name.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_parameters_are_replaced() {
        assert_eq!(redact("a=1&api_key=x&Token=y&z", &[]), "a=1&api_key=***&Token=***&z");
        assert_eq!(redact("k%65y=x", &[]), "k%65y=***");
        assert_eq!(redact("tg_0123456789abcdefghij", &[]), "***");
        assert_eq!(redact("", &[]), "");
        assert_eq!(redact("id=x&b=y", &[KeyPlace::Query("id".into())]), "id=***&b=y");
    }
}
