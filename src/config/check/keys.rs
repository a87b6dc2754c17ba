//! Keys: names, consumers, digests that differ, and the demo key that everybody knows.
//! Nothing here ever sees a key itself, and no message repeats a digest.

use std::collections::HashMap;

use super::Check;
use crate::config::{Digest, did_you_mean};

/// SHA-256 of the key in `conf/tollgate.yaml`: everybody knows it, so it is refused beyond loopback.
pub const DEMO_KEY_SHA256: Digest = Digest([
    0x67, 0x33, 0x03, 0xe6, 0xd5, 0x9a, 0x29, 0x82, 0x28, 0x79, 0xc7, 0x48, 0x8d, 0xc4, 0x24, 0x41, 0x12, 0x88, 0x97,
    0x2c, 0x48, 0xb9, 0x77, 0xa4, 0xe7, 0x1f, 0xb4, 0xa8, 0x12, 0x28, 0x1a, 0x9c,
]);

impl Check<'_> {
    pub(super) fn keys(&mut self) {
        let config = &self.draft.config;
        let loopback_only = config.is_loopback_only();
        let mut seen: HashMap<Digest, &str> = HashMap::new();
        let mut plans: HashMap<&str, (&str, Option<&str>)> = HashMap::new();
        for (name, key) in &config.keys {
            let path = format!("keys.{name}");
            if looks_like_a_key(name) {
                self.problem(path.clone(), "this name looks like a key: a key itself never stands in this file, `tollgate keys new NAME` makes another");
            }
            self.name(path.clone(), name);
            if let Some(consumer) = &key.consumer {
                self.name(format!("{path}.consumer"), consumer);
            }
            self.plan(&path, key.plan.as_deref());
            let consumer = key.consumer.as_deref().unwrap_or(name);
            let (first, plan) = *plans.entry(consumer).or_insert((name, key.plan.as_deref()));
            if plan != key.plan.as_deref() {
                let said =
                    |plan: Option<&str>| plan.map_or_else(|| "no plan".to_owned(), |plan| format!("the plan `{plan}`"));
                let message = format!(
                    "`{consumer}` has {} here and {} at the key `{first}`: a plan belongs to the consumer, write the same at each of its keys",
                    said(key.plan.as_deref()),
                    said(plan)
                );
                self.problem(if key.plan.is_some() { format!("{path}.plan") } else { path.clone() }, message);
            }
            if let Some(first) = seen.insert(key.sha256, name) {
                self.problem(format!("{path}.sha256"), format!("the same digest as `{first}`: one key has one name"));
            }
            if key.sha256 == DEMO_KEY_SHA256 && !loopback_only {
                let message = "this is the demo key, which everybody knows: `listen` and `admin` have to stay on loopback with it; \
                               make another with `tollgate keys new NAME`";
                self.problem(format!("{path}.sha256"), message);
            }
        }
    }
}

impl Check<'_> {
    fn plan(&mut self, path: &str, plan: Option<&str>) {
        let Some(plan) = plan else { return };
        if !self.draft.plans.contains(plan) && !self.draft.lost.contains("plans") {
            let hint = did_you_mean(plan, self.draft.plans.iter().map(String::as_str));
            self.problem(format!("{path}.plan"), format!("no plan named `{plan}`{hint}"));
        }
    }
}

/// Whether somebody wrote the key where its name belongs.
fn looks_like_a_key(name: &str) -> bool {
    name.strip_prefix("tg_")
        .is_some_and(|rest| rest.len() >= 40 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}
