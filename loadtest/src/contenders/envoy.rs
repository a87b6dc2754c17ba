//! Envoy as a contender: the templates of `peers/envoy` put together for a setup.
//! Not here: why a setting is there, which the templates say.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::contender::{Contender, Place, Prepared, Setup};
use crate::contenders::peer::{is_behind_proxy, is_limited, is_open, keys, routes, with_open_files};
use crate::contenders::template::fill;
use crate::tools;

const MAIN: &str = include_str!("../../peers/envoy/envoy.yaml");
const PLAIN_MANAGER: &str = include_str!("../../peers/envoy/plain_manager.yaml");
const PLAIN_ROUTES: &str = include_str!("../../peers/envoy/plain_routes.yaml");
const TLS: &str = include_str!("../../peers/envoy/tls.yaml");
const GATEWAY_MANAGER: &str = include_str!("../../peers/envoy/gateway_manager.yaml");
const CLIENT: &str = include_str!("../../peers/envoy/client.yaml");
const CLIENT_BEHIND_PROXY: &str = include_str!("../../peers/envoy/client_behind_proxy.yaml");
const FILTERS: &str = include_str!("../../peers/envoy/filters.yaml");
const CACHE: &str = include_str!("../../peers/envoy/cache.yaml");
const GATEWAY_ROUTES: &str = include_str!("../../peers/envoy/gateway_routes.yaml");
const FRESHNESS: &str = include_str!("../../peers/envoy/freshness.yaml");
const ROUTE: &str = include_str!("../../peers/envoy/route.yaml");
const ROUTES: &str = include_str!("../../peers/envoy/routes.yaml");
const TREE_ROUTE: &str = include_str!("../../peers/envoy/tree_route.yaml");

const FORWARDED_FOR: &str = include_str!("../../peers/envoy/forwarded_for.yaml");

const NEVER: &str = "{max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 1s}";
const ONE_A_MINUTE: &str = "{max_tokens: 1, tokens_per_fill: 1, fill_interval: 60s}";

pub struct Envoy;

impl Contender for Envoy {
    fn name(&self) -> &'static str {
        "envoy"
    }

    fn version(&self) -> io::Result<String> {
        let said = tools::say(&tools::find("envoy")?, &["--version"])?;
        // "envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
        let number = said.trim().split('/').rev().nth(3).unwrap_or(said.trim());
        Ok(format!("Envoy {number}"))
    }

    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared> {
        let file = write(setup, place)?;
        let mut command = with_open_files(&tools::find("envoy")?, "");
        command.arg("-c").arg(file).args(["--concurrency", "1"]);
        // Without hot restart there is no shared memory and no socket to clash with another Envoy.
        command.args(["--disable-hot-restart", "--log-level", "error"]);
        // The default flushes lines every 10 s.
        command.args(["--file-flush-interval-msec", "500"]);
        Ok(Prepared::Command(command))
    }
}

/// Writes the configuration, and returns its file.
pub(super) fn write(setup: Setup, place: &Place) -> io::Result<PathBuf> {
    let file = place.folder.join("envoy.yaml");
    fs::write(&file, configuration(setup, place)?)?;
    Ok(file)
}

fn configuration(setup: Setup, place: &Place) -> io::Result<String> {
    let (manager, filters, routes, tls) = if is_open(setup) {
        (PLAIN_MANAGER.to_owned(), String::new(), PLAIN_ROUTES.to_owned(), tls(setup, place)?)
    } else {
        let cache = if setup == Setup::Cache { CACHE } else { "" };
        (manager(setup, place)?, fill(FILTERS, &[("CACHE", cache)])?, gateway_routes(setup, place)?, String::new())
    };
    fill(
        MAIN,
        &[
            ("HOST", &place.listen.ip().to_string()),
            ("PORT", &place.listen.port().to_string()),
            ("MANAGER", &manager),
            ("FILTERS", &filters),
            ("ROUTES", &routes),
            ("TLS", &tls),
            ("UPSTREAM_HOST", &place.upstream.ip().to_string()),
            ("UPSTREAM_PORT", &place.upstream.port().to_string()),
            ("FRESHNESS", if setup == Setup::Cache { FRESHNESS } else { "" }),
        ],
    )
}

fn tls(setup: Setup, place: &Place) -> io::Result<String> {
    if setup != Setup::Tls {
        return Ok(String::new());
    }
    let certificate = place.certificate.display().to_string();
    let certificate_key = place.certificate_key.display().to_string();
    fill(TLS, &[("CERTIFICATE", &certificate), ("CERTIFICATE_KEY", &certificate_key)])
}

fn manager(setup: Setup, place: &Place) -> io::Result<String> {
    let client = if is_behind_proxy(setup) { CLIENT_BEHIND_PROXY } else { CLIENT };
    fill(GATEWAY_MANAGER, &[("CLIENT", client), ("LINES", &place.lines.display().to_string())])
}

fn gateway_routes(setup: Setup, place: &Place) -> io::Result<String> {
    let lines =
        keys(setup, place).into_iter().map(|(key, consumer)| format!("- {{key: \"{key}\", client: {consumer}}}\n"));
    // The proxy in front has said who asked it; we add who asked us.
    let action = if is_behind_proxy(setup) { "APPEND_IF_EXISTS_OR_ADD" } else { "OVERWRITE_IF_EXISTS_OR_ADD" };
    fill(
        GATEWAY_ROUTES,
        &[
            ("ROUTES", &tree(setup)?),
            ("FORWARDED_FOR", &fill(FORWARDED_FOR, &[("ACTION", action)])?),
            ("KEYS", &lines.collect::<String>()),
            ("BUCKET", if is_limited(setup) { ONE_A_MINUTE } else { NEVER }),
        ],
    )
}

/// One route as a list, many as a tree.
fn tree(setup: Setup) -> io::Result<String> {
    if setup != Setup::Routes {
        return Ok(ROUTE.to_owned());
    }
    let map = routes(setup).iter().map(|path| fill(TREE_ROUTE, &[("PATH", path)])).collect::<io::Result<String>>()?;
    fill(ROUTES, &[("MAP", &map)])
}
