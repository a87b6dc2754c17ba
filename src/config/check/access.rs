//! Who may use a route: consumers and labels that some key has, networks that are not both allowed and denied, origins that
//! browsers send. Not here: what a route does with them (`policy`).

use http::{HeaderName, Method};

use super::Check;
use crate::config::{Clients, Cors, KeyAccess, KeyRule, KeyStoreUrl, did_you_mean};

impl Check<'_> {
    pub(super) fn key_rule(&mut self, path: &str, rule: &KeyRule) {
        let KeyRule::Only(access) = rule else { return };
        if access.consumers.is_empty() && access.plan.is_empty() && access.label.is_empty() {
            if !self.lost(path) {
                self.problem(path, "an empty list admits nobody: name consumers, or write `required` or `none`");
            }
            return;
        }
        for (index, plan) in access.plan.iter().enumerate().filter(|(_, plan)| !self.draft.plans.contains(*plan)) {
            if !self.draft.lost.contains("plans") {
                let hint = did_you_mean(plan, self.draft.plans.iter().map(String::as_str));
                let element = self.element(&format!("{path}.plan"), index, access.plan.len());
                self.problem(element, format!("no plan named `{plan}`{hint}"));
            }
        }
        // Keys of the store are not in the file: what they are called is known when they are there.
        if self.draft.config.key_store == KeyStoreUrl::None && !self.draft.lost.contains("keys") {
            self.consumers(path, access);
            self.labels(path, access);
        }
    }

    fn consumers(&mut self, path: &str, access: &KeyAccess) {
        let list = self.written(path, "consumers");
        for (index, consumer) in access.consumers.iter().enumerate() {
            if !self.draft.consumers.contains(consumer) {
                let hint = did_you_mean(consumer, self.draft.consumers.iter().map(String::as_str));
                let element = self.element(&list, index, access.consumers.len());
                self.problem(element, format!("no key has a consumer named `{consumer}`{hint}"));
            }
        }
    }

    fn labels(&mut self, path: &str, access: &KeyAccess) {
        let keys = &self.draft.config.keys;
        if self.draft.lost.iter().any(|lost| lost.starts_with("keys.")) {
            return;
        }
        let known: Vec<&str> = keys.values().flat_map(|key| &key.labels).map(String::as_str).collect();
        for (index, label) in access.label.iter().enumerate().filter(|(_, label)| !known.contains(&label.as_str())) {
            let hint = did_you_mean(label, known.iter().copied());
            let element = self.element(&format!("{path}.label"), index, access.label.len());
            self.problem(element, format!("no key has the label `{label}`{hint}"));
        }
    }

    pub(super) fn clients(&mut self, path: &str, clients: &Clients) {
        if clients.allow.is_empty() && clients.deny.is_empty() && !self.lost(path) {
            self.problem(path, "nothing is allowed or denied: write `allow`, `deny`, or leave `clients` out");
        }
        for (index, network) in clients.allow.iter().enumerate() {
            if let Some(wider) = clients.deny.iter().find(|wider| wider.contains(network)) {
                let element = self.element(&format!("{path}.allow"), index, clients.allow.len());
                self.problem(
                    element,
                    format!("`{network}` is denied by `{wider}`: `deny` wins, so nobody is allowed by it"),
                );
            }
        }
    }

    pub(super) fn cors(&mut self, path: &str, cors: &Cors) {
        if cors.origins.is_empty() && !self.lost(path) {
            self.problem(format!("{path}.origins"), "no origin may call: name one, or leave `cors` out");
        }
        for (index, origin) in cors.origins.iter().enumerate() {
            if let Err(message) = check_origin(origin, cors) {
                let element = self.element(&format!("{path}.origins"), index, cors.origins.len());
                self.problem(element, message);
            }
        }
        for (index, method) in cors.methods.iter().enumerate() {
            let is_upper = method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            if !is_upper || Method::from_bytes(method.as_bytes()).is_err() {
                let element = self.element(&format!("{path}.methods"), index, cors.methods.len());
                self.problem(element, format!("`{method}` is no method: write GET, POST and the like"));
            }
        }
        for (index, header) in cors.headers.iter().enumerate() {
            if header != "*" && HeaderName::from_bytes(header.as_bytes()).is_err() {
                let element = self.element(&format!("{path}.headers"), index, cors.headers.len());
                self.problem(element, format!("`{header}` is no header name"));
            }
        }
    }
}

/// An origin as browsers send it (RFC 6454 section 6.2): scheme, host, and a port that is not the scheme's own.
fn check_origin(origin: &str, cors: &Cors) -> Result<(), String> {
    if origin == "*" {
        return match (cors.credentials, cors.origins.len()) {
            (true, _) => {
                Err("`*` and `credentials` together would let every page act as its visitor: name the origins"
                    .to_owned())
            }
            (false, 1) => Ok(()),
            (false, _) => Err("`*` is every origin: leave the others out".to_owned()),
        };
    }
    let wrong = |hint: &str| Err(format!("`{origin}` is no origin: {hint}"));
    let Some((scheme, rest)) = origin.split_once("://") else {
        return wrong("write scheme and host, such as https://app.example");
    };
    if origin != origin.to_ascii_lowercase() {
        return wrong("browsers send it in lower case");
    }
    if rest.contains(['/', '?', '#', '@']) {
        return wrong("it ends with the host or the port, without a slash or a path");
    }
    let host = rest.strip_prefix("*.").unwrap_or(rest);
    let url = url::Url::parse(&format!("{scheme}://{host}"));
    let Some(url) = url.ok().filter(|url| url.host_str().is_some_and(|host| !host.is_empty() && !host.contains('*')))
    else {
        return wrong("write scheme and host, such as https://app.example or https://*.app.example");
    };
    if matches!((scheme, host.rsplit_once(':')), ("http", Some((_, "80"))) | ("https", Some((_, "443")))) {
        return wrong("browsers leave the scheme's own port out");
    }
    if url.port().is_none() && host.ends_with(':') {
        return wrong("the port is missing after the colon");
    }
    Ok(())
}
