//! The configuration in its long form, every default filled in: what `tollgate config dump` prints.
//! Read again, it gives the same configuration, apart from redacted passwords.
//! Values that came from variables are shown as their variables, so no secret is printed.

use serde_yaml::{Mapping, Value};

use super::places::Places;
use super::schema::Config;
use super::store_url::REDACTED;

/// What a route takes from `defaults` when it does not say.
const FROM_DEFAULTS: [&str; 4] = ["keys", "limit", "body_max", "timeout"];

/// The long form as YAML.
///
/// # Errors
/// The serializer's, which are not expected.
pub fn dump(config: &Config) -> Result<String, String> {
    let mut value = serde_yaml::to_value(config).map_err(|error| error.to_string())?;
    show_variables(&mut value, &[String::new()], &config.places);
    if let Value::Mapping(root) = &mut value {
        fill_routes(root);
        fill_listeners(root);
        fill_keys(root);
    }
    none_for_null(&mut value);
    serde_yaml::to_string(&value).map_err(|error| error.to_string())
}

/// Puts the variables back where the file has them. `ways` are the paths under which the file may have written this value:
/// the long form, and its short forms.
fn show_variables(value: &mut Value, ways: &[String], places: &Places) {
    let written = ways.iter().filter(|way| *way != "log").find_map(|way| places.variable(way));
    if let Some(written) = written {
        *value = Value::String(without_password(written));
        return;
    }
    match value {
        Value::Mapping(entries) => {
            for (name, child) in entries {
                let Some(name) = name.as_str() else { continue };
                let mut below: Vec<String> = ways.iter().map(|way| super::tree::join(way, name)).collect();
                let short = ways.iter().filter(|way| {
                    (name == "instances" && way.starts_with("services.")) || (name == "store" && *way == "log")
                });
                let short: Vec<String> = short.cloned().collect();
                // `log: URL` is `log.store`.
                if let Some(written) = short.iter().filter(|way| *way == "log").find_map(|way| places.variable(way)) {
                    *child = Value::String(without_password(written));
                    continue;
                }
                below.extend(short);
                show_variables(child, &below, places);
            }
        }
        Value::Sequence(list) => {
            let alone = list.len() == 1;
            for (index, child) in list.iter_mut().enumerate() {
                let mut below: Vec<String> = ways.iter().map(|way| format!("{way}[{index}]")).collect();
                if alone {
                    below.extend(ways.iter().cloned());
                }
                show_variables(child, &below, places);
            }
        }
        Value::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        _ => {}
    }
}

/// A URL that was written with variables may still hold a password in plain text.
fn without_password(written: &str) -> String {
    let Some(start) = written.find("://").map(|index| index + 3) else { return written.to_owned() };
    let Some(end) = written.rfind('@').filter(|end| *end > start) else { return written.to_owned() };
    match written[start..end].find(':').map(|colon| start + colon + 1) {
        // `${X:-default}` has a colon of its own.
        Some(password) if !written[start..password].contains("${") || written[start..password].contains('}') => {
            let plain = !(written[password..end].starts_with("${") && written[password..end].ends_with('}'));
            if plain { format!("{}{REDACTED}{}", &written[..password], &written[end..]) } else { written.to_owned() }
        }
        _ => written.to_owned(),
    }
}

fn fill_routes(root: &mut Mapping) {
    let defaults = root.get("defaults").cloned().unwrap_or_default();
    let Some(Value::Mapping(routes)) = root.get_mut("routes") else { return };
    for (name, route) in routes {
        let Value::Mapping(route) = route else { continue };
        if name.as_str().is_some_and(|name| name.contains('/')) {
            route.shift_remove("match");
        }
        for field in FROM_DEFAULTS {
            if let (Some(own @ Value::Null), Some(default)) = (route.get_mut(field), defaults.get(field)) {
                *own = default.clone();
            }
        }
    }
}

fn fill_listeners(root: &mut Mapping) {
    let Some(Value::Sequence(listeners)) = root.get_mut("listen") else { return };
    for listener in listeners {
        let has_tls = listener.get("tls").and_then(Value::as_sequence).is_some_and(|list| !list.is_empty());
        if let Some(http2 @ Value::Null) = listener.get_mut("http2") {
            *http2 = Value::Bool(has_tls);
        }
    }
}

fn fill_keys(root: &mut Mapping) {
    let Some(Value::Mapping(keys)) = root.get_mut("keys") else { return };
    for (name, key) in keys {
        if let Some(consumer @ Value::Null) = key.get_mut("consumer") {
            *consumer = name.clone();
        }
    }
}

/// What is not there is written `none`.
fn none_for_null(value: &mut Value) {
    match value {
        Value::Null => *value = Value::String("none".to_owned()),
        Value::Mapping(entries) => entries.values_mut().for_each(none_for_null),
        Value::Sequence(list) => list.iter_mut().for_each(none_for_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PASSWORD" => Some("hunter2".to_owned()),
            "HOST" => Some("10.0.0.1".to_owned()),
            "PORT" => Some("8080".to_owned()),
            "RATE" => Some("77/min per ip".to_owned()),
            "THREADS" => Some("4".to_owned()),
            _ => None,
        }
    }

    fn dumped(text: &str) -> String {
        let config = read(text, Path::new("/x/tollgate.yaml"), &environment)
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        dump(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    const SHORT: &str = "listen: 127.0.0.1:${PORT}\nadmin: none\nthreads: ${THREADS}\ndefaults: {limit: '${RATE}'}\nservices: {a: ['${HOST}:80'], b: {instances: [{address: 'h:1', weight: 2}, '${HOST}:2']}}\nroutes: {/a$$/*: {to: a}, n: {match: '/n$$/*', to: b, limit: none, keys: none, cache: 5s}}\nkeys: {k: {sha256: 4f0e8e0a1c2b3d4e5f60718293a4b5c6d7e8f9010203040506070809aabbccdd}}\nlog: mysql://u:${PASSWORD}@h/d\n";

    #[test]
    fn a_dump_reads_as_itself() {
        let text = SHORT.replace("/a$$/*", "/a$/*");
        let once = dumped(&text);
        assert_eq!(dumped(&once), once);
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let once = dumped(&SHORT.replace("/a$$/*", "/a/*"));
        for secret in ["hunter2", "10.0.0.1", "8080", "77/min"] {
            assert!(!once.contains(secret), "{secret} in\n{once}");
        }
        assert!(once.contains("store: mysql://u:${PASSWORD}@h/d"), "{once}");
        let plain = dumped("listen: 127.0.0.1:1\nadmin: none\nlog: mysql://u:hunter2@${HOST}/d\n");
        assert!(!plain.contains("hunter2"), "{plain}");
        let plain = dumped("listen: 127.0.0.1:1\nadmin: none\nlog: mysql://u:hunter2@h/d\n");
        assert!(plain.contains("mysql://u:redacted@h/d"), "{plain}");
    }
}
