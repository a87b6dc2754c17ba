//! Query strings for the log: the values of parameters that hold secrets are replaced.
//! Rather one too many than one too few; what is forwarded is never touched.

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

/// `query` with secret values replaced by `***`.
pub(super) fn redact(query: &str) -> String {
    query.split('&').map(redact_parameter).collect::<Vec<_>>().join("&")
}

fn redact_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        // An encoded name could spell a secret one.
        Some((name, _)) if name.contains('%') || is_secret(name) => format!("{name}=***"),
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
        assert_eq!(redact("a=1&api_key=x&Token=y&z"), "a=1&api_key=***&Token=***&z");
        assert_eq!(redact("k%65y=x"), "k%65y=***");
        assert_eq!(redact("tg_0123456789abcdefghij"), "***");
        assert_eq!(redact(""), "");
    }
}
