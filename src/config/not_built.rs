//! What the design has and this version does not do: refused by name instead of ignored.
//! A line goes when its part is built.

use super::problems::Problems;
use super::tree::{Kind, Node, join, problem};

/// Paths in the file; `*` is any name or any element of a list.
const NOT_BUILT: &[&str] = &[
    "routes.*.breaker",
    "routes.*.body_max.mode",
    "defaults.cors",
    "defaults.clients",
    "defaults.breaker",
    "defaults.cache",
    "defaults.body_max.mode",
];

/// Takes the parts that are not built out of the tree, one problem each, and says their paths.
pub fn take_out(root: &mut Node, problems: &mut Problems) -> Vec<String> {
    let mut lost = Vec::new();
    for pattern in NOT_BUILT {
        let steps: Vec<&str> = pattern.split('.').collect();
        walk(root, &steps, "", problems, &mut lost);
    }
    lost
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
