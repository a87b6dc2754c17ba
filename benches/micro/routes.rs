//! Which route a request belongs to, with few routes and with many.
//! Half of the routes end in a name, half in `/*`, as those of an API do.

use divan::{Bencher, black_box};
use http::Method;

use super::case::{Case, SAMPLE_SIZE, Work, case, work};
use super::config::{compiled, with_routes};

pub const CASES: &[Case] = &[
    case("route/3 routes/found", || find(3, "/api/service-1/items/42")),
    case("route/3 routes/none", || find(3, "/api/elsewhere/items/42")),
    case("route/100 routes/found", || find(100, "/api/service-57/items/42")),
    case("route/100 routes/none", || find(100, "/api/elsewhere/items/42")),
    case("route/10,000 routes/found", || find(10_000, "/api/service-5007/items/42")),
    case("route/10,000 routes/none", || find(10_000, "/api/elsewhere/items/42")),
];

#[divan::bench(args = CASES, sample_size = SAMPLE_SIZE)]
fn route(bencher: Bencher<'_, '_>, case: &Case) {
    case.bench(bencher);
}

fn find(routes: usize, path: &'static str) -> Work {
    let runtime = compiled(&with_routes(routes));
    let is_found = runtime.routes.find("gateway.example", path, &Method::GET).is_ok();
    assert_eq!(is_found, !path.contains("elsewhere"), "{path}");
    work(move || runtime.routes.find(black_box("gateway.example"), black_box(path), black_box(&Method::GET)).is_ok())
}
