//! What the gateways are configured to do, as YAML from `services` on.
//! Sizes are those of the goals: a few routes, 10,000 routes, 100,000 keys. [`UPSTREAM`] stands for the upstream's address.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::gateway::UPSTREAM;
use crate::job::ITEMS_PATH;

/// Where keys are sent.
pub const KEY_HEADER: &str = "X-API-Key";

/// The path that is asked.
pub const PATH: &str = ITEMS_PATH;

/// Routed by [`Variant::B`] only.
pub const PATH_OF_B: &str = "/only-b";

/// The file of JSON lines, beside the configuration.
pub const LINES_FILE: &str = "lines.json";

/// Connections wait as long as a measurement takes.
const PATIENT: &str = "connections: {idle_timeout: 10min}\n";

/// Routes, keys and limits that only one of two variants has.
const VARIANT_ENTRIES: usize = 200;

/// Two configurations of one gateway that differ in routes, keys, services and the count of a limit. Both answer [`PATH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    A,
    B,
}

impl Variant {
    /// They take turns.
    pub const fn of_turn(turn: u64) -> Self {
        if turn.is_multiple_of(2) { Self::A } else { Self::B }
    }
}

fn services() -> String {
    format!("services:\n  upstream: [{UPSTREAM}]\n")
}

/// Three routes, open to everyone, nothing written down.
pub fn plain() -> String {
    routes(3)
}

/// So many routes: [`PATH`], and `/r/1/*` onwards.
pub fn routes(count: usize) -> String {
    let mut yaml = format!("{}{PATIENT}log: none\nroutes:\n  {PATH}: {{to: upstream, keys: none}}\n", services());
    for number in 1..count {
        let _ = writeln!(yaml, "  /r/{number}/*: {{to: upstream, keys: none}}");
    }
    yaml
}

/// So many keys.
pub fn keys(count: usize) -> String {
    let mut yaml = format!("{}log: none\nroutes:\n  {PATH}: {{to: upstream}}\nkeys:\n", services());
    push_keys(&mut yaml, count);
    yaml
}

/// A limit that counts the address in `X-Forwarded-For`, over a time longer than any measurement, and is never reached,
/// not even by all who are counted together when the table is full.
pub fn addresses() -> String {
    format!(
        "{}{PATIENT}log: none\ntrusted_proxies: [127.0.0.0/8]\n\
         routes:\n  {PATH}: {{to: upstream, keys: none, limit: 1000000/24h per ip}}\n",
        services()
    )
}

/// What a client may do that makes up addresses.
pub const MADE_UP_LIMIT: u64 = 1_000;

/// The same where nobody is trusted to say an address, and the limit is soon reached.
pub fn made_up_addresses() -> String {
    format!(
        "{}{PATIENT}log: none\nroutes:\n  {PATH}: {{to: upstream, keys: none, limit: {MADE_UP_LIMIT}/24h per ip}}\n",
        services()
    )
}

/// A gateway as most are: a key, a limit per address that is never reached, and this log.
pub fn gateway(variant: Variant, log: &str) -> String {
    let mut yaml = services();
    if variant == Variant::A {
        let _ = writeln!(yaml, "log: {log}\nroutes:\n  {PATH}: {{to: upstream, limit: 100000000/min per ip}}\nkeys:");
        push_keys(&mut yaml, 1);
        return yaml;
    }
    let _ = writeln!(yaml, "  other: {{instances: [{UPSTREAM}], timeouts: {{response: 5s}}}}\nlog: {log}\nroutes:");
    let _ = writeln!(yaml, "  {PATH}: {{to: other, limit: 200000000/min per ip}}\n  {PATH_OF_B}: {{to: other}}");
    for number in 0..VARIANT_ENTRIES {
        let _ = writeln!(yaml, "  /b/{number}/*: {{to: other, limit: {}/min per key}}", number + 1);
    }
    yaml.push_str("keys:\n");
    push_keys(&mut yaml, VARIANT_ENTRIES);
    yaml
}

/// One route, open to everyone, to instances that are chosen like this.
pub fn balanced(balance: &str, instances: &[SocketAddr]) -> String {
    let instances: Vec<String> = instances.iter().map(SocketAddr::to_string).collect();
    format!(
        "services:\n  upstream: {{instances: [{}], balance: {balance}}}\nlog: none\nroutes:\n  {PATH}: {{to: upstream, keys: none}}\n",
        instances.join(", ")
    )
}

/// Instances that are checked every second and ejected for `ejected_for` after three errors, and requests that are tried three times.
pub fn failover(instances: &[SocketAddr], ejected_for: Duration) -> String {
    let instances: Vec<String> = instances.iter().map(SocketAddr::to_string).collect();
    format!(
        "services:\n  users:\n    instances: [{}]\n\
         \x20   health: {{path: /health, every: 1s, timeout: 500ms}}\n\
         \x20   eject: {{errors: 3, for: {}s, statuses: [500-599]}}\n\
         \x20   retry: {{attempts: 3, base_delay: 50ms}}\n\
         \x20   timeouts: {{connect: 500ms, response: 500ms, between_bytes: 500ms}}\n\
         log: none\nroutes:\n  /users: {{to: users, keys: none}}\n",
        instances.join(", "),
        ejected_for.as_secs()
    )
}

/// JSON lines in [`LINES_FILE`].
pub fn log_lines() -> String {
    format!("{{store: none, json: {LINES_FILE}}}")
}

/// The key with this number, for the header [`KEY_HEADER`].
pub fn key(number: usize) -> String {
    format!("loadtest-key-{number}")
}

fn push_keys(yaml: &mut String, count: usize) {
    for number in 0..count {
        let _ = writeln!(yaml, "  key-{number}: {{sha256: {}}}", digest(&key(number)));
    }
}

fn digest(key: &str) -> String {
    Sha256::digest(key).iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_routes_and_keys_as_asked_for() {
        let entries = |yaml: &str, of: &str| yaml.lines().filter(|line| line.contains(of)).count();
        assert_eq!(entries(&routes(10), "{to: upstream"), 10);
        assert_eq!(entries(&keys(10), "{sha256: "), 10);
    }

    #[test]
    fn the_variants_differ_and_take_turns() {
        assert_eq!([0, 1, 2].map(Variant::of_turn), [Variant::A, Variant::B, Variant::A]);
        let [a, b] = [Variant::A, Variant::B].map(|variant| gateway(variant, "none"));
        assert!(!a.contains(PATH_OF_B) && b.contains(PATH_OF_B));
        assert!(a.contains("/items: {to: upstream") && b.contains("/items: {to: other"));
    }

    #[test]
    fn a_digest_is_sha256_in_hexadecimal() {
        assert_eq!(digest("loadtest-key"), "0dd9be9f9a8be0a0e3c2475ef6993b91b523557deb64651fb326e49e34f87ece");
    }
}
