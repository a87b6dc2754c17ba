//! What the design has and this version does not do: refused by name instead of ignored.
//! A line goes when its part is built.

use super::problems::Problems;
use super::tree::{Kind, Node, join, problem};

/// Paths in the file; `*` is any name or any element of a list.
const NOT_BUILT: &[&str] = &[
    "cache.disk",
    "services.*.eject",
    "services.*.concurrent_max",
    "services.*.queue",
    "services.*.instances.*.backup",
    "services.*.*.backup",
    "routes.*.breaker",
    "routes.*.cache.heuristic",
    "routes.*.cache.set_cookie",
    "routes.*.cache.stale_while_revalidate",
    "routes.*.cache.stale_if_error",
    "routes.*.body_max.mode",
    "defaults.cors",
    "defaults.clients",
    "defaults.breaker",
    "defaults.cache",
    "defaults.body_max.mode",
];

const BALANCES: &[&str] = &[
    "least_requests",
    "least_request",
    "least_connections",
    "least_conn",
    "random",
    "two_random",
    "p2c",
    "hash",
    "ip_hash",
    "consistent_hash",
    "ring_hash",
    "maglev",
    "weighted",
    "peak_ewma",
    "ewma",
];

/// Takes the parts that are not built out of the tree, one problem each, and says their paths.
pub fn take_out(root: &mut Node, problems: &mut Problems) -> Vec<String> {
    let mut lost = Vec::new();
    for pattern in NOT_BUILT {
        let steps: Vec<&str> = pattern.split('.').collect();
        walk(root, &steps, "", problems, &mut lost);
    }
    balances(root, problems, &mut lost);
    lost
}

/// Ways to balance that other gateways have; a misspelt `round_robin` is answered elsewhere.
fn balances(root: &mut Node, problems: &mut Problems, lost: &mut Vec<String>) {
    let Kind::Map(sections) = &mut root.kind else { return };
    let services = sections.iter_mut().find(|section| section.name == "services").map(|section| &mut section.node.kind);
    let Some(Kind::Map(services)) = services else { return };
    for service in services {
        let Kind::Map(fields) = &mut service.node.kind else { continue };
        fields.retain(|field| {
            let word = field.node.text().filter(|word| field.name == "balance" && BALANCES.contains(word));
            let Some(word) = word else { return true };
            let path = format!("services.{}.balance", service.name);
            problems.push(problem(field.node.at, &path, format!("`{word}`: not built yet; `round_robin` is")));
            lost.push(path);
            false
        });
    }
}

fn walk(node: &mut Node, steps: &[&str], path: &str, problems: &mut Problems, lost: &mut Vec<String>) {
    let Some((step, rest)) = steps.split_first() else { return };
    match &mut node.kind {
        Kind::Map(entries) if rest.is_empty() => entries.retain(|entry| {
            let found = entry.name == *step;
            if found {
                let child = join(path, &entry.name);
                problems.push(problem(entry.at, &child, format!("`{step}`: not built yet")));
                lost.push(child);
            }
            !found
        }),
        Kind::Map(entries) => {
            for entry in entries.iter_mut().filter(|entry| *step == "*" || entry.name == *step) {
                let child = join(path, &entry.name);
                walk(&mut entry.node, rest, &child, problems, lost);
            }
        }
        Kind::List(list) if *step == "*" => {
            for (index, element) in list.iter_mut().enumerate() {
                walk(element, rest, &format!("{path}[{index}]"), problems, lost);
            }
        }
        _ => {}
    }
}
