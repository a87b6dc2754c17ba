//! A configuration with many routes: reading the file, compiling it, and compiling it again beside the one in force.
//! Also the configurations that other cases need.

use divan::{Bencher, black_box};
use tollgate::config::{self, Config};
use tollgate::runtime::Runtime;

use super::case::{Case, SLOW_SAMPLE_COUNT, Work, slow, work};

pub const CASES: &[Case] = &[
    slow("config/read 10,000 routes", || read(10_000)),
    slow("config/compile 10,000 routes", || compile(10_000, false)),
    slow("config/compile 10,000 routes again", || compile(10_000, true)),
];

#[divan::bench(args = CASES, sample_count = SLOW_SAMPLE_COUNT, sample_size = 1)]
fn config(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

/// So many routes, one service, one key, a limit on each route.
pub fn with_routes(routes: usize) -> String {
    let mut yaml = String::from(
        "listen: 127.0.0.1:8080\nadmin: none\nlog: none\nservices:\n  items: [127.0.0.1:9]\n\
         keys:\n  bench: {sha256: 673303e6d59a29822879c7488dc424411288972c48b977a4e71fb4a812281a9c}\nroutes:\n",
    );
    for number in 0..routes {
        let tail = if number % 2 == 0 { "*" } else { "items/{id}" };
        yaml.push_str(&format!("  /api/service-{number}/{tail}: {{to: items, limit: 100/min per key}}\n"));
    }
    yaml
}

/// Reads the text as if it were a file.
pub fn loaded(yaml: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.yaml");
    std::fs::write(&file, yaml).unwrap();
    config::load(&file).unwrap()
}

pub fn compiled(yaml: &str) -> Runtime {
    Runtime::compile(loaded(yaml), None).unwrap()
}

fn read(routes: usize) -> Work {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tollgate.yaml"), with_routes(routes)).unwrap();
    work(move || config::load(black_box(&folder.path().join("tollgate.yaml"))).unwrap())
}

/// The copy of the configuration that is compiled is part of the figure.
fn compile(routes: usize, again: bool) -> Work {
    let config = loaded(&with_routes(routes));
    let before = again.then(|| Runtime::compile(config.clone(), None).unwrap());
    work(move || Runtime::compile(black_box(&config).clone(), before.as_ref()).unwrap())
}
