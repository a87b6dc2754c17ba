//! HAProxy as a contender: the templates of `peers/haproxy` put together for a setup.
//! Not here: why a setting is there, which the templates say.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::contender::{Contender, Place, Prepared, Setup};
use crate::contenders::peer::{is_behind_proxy, is_limited, is_open, keys, quoted, routes, with_open_files};
use crate::contenders::template::fill;
use crate::tools;

const MAIN: &str = include_str!("../../peers/haproxy/haproxy.cfg");
const GATEWAY: &str = include_str!("../../peers/haproxy/gateway.cfg");
const ROUTE: &str = include_str!("../../peers/haproxy/route.cfg");
const ROUTES: &str = include_str!("../../peers/haproxy/routes.cfg");
const TABLES: &str = include_str!("../../peers/haproxy/tables.cfg");
const CACHE: &str = include_str!("../../peers/haproxy/cache.cfg");
const CACHE_STORE: &str = include_str!("../../peers/haproxy/cache_store.cfg");
const WRITER: &str = include_str!("../../peers/haproxy/writer.sh");
const CACHE_USE: &str = "http-request cache-use answers";

/// HAProxy allows one certificate file on a line: chain and key together.
const CERTIFICATE: &str = "site.pem";

/// The client is who the trusted proxy in front says it is.
const TRUSTED: &str = "http-request set-src hdr_ip(X-Forwarded-For,-1) if { src 127.0.0.0/8 }";

pub struct Haproxy;

impl Contender for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn version(&self) -> io::Result<String> {
        let said = tools::say(&tools::find("haproxy")?, &["-v"])?;
        let first = said.lines().next().unwrap_or_default();
        Ok(first.split(" - ").next().unwrap_or_default().to_owned())
    }

    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared> {
        let file = write(setup, place)?;
        let before = if is_open(setup) { String::new() } else { writer(place)? };
        let mut command = with_open_files(&tools::find("haproxy")?, &before);
        // -db: stays in the foreground, one process.
        command.arg("-db").arg("-f").arg(file);
        Ok(Prepared::Command(command))
    }
}

/// Writes the configuration, and returns its file.
pub(super) fn write(setup: Setup, place: &Place) -> io::Result<PathBuf> {
    if setup == Setup::Tls {
        let both = fs::read_to_string(&place.certificate)? + &fs::read_to_string(&place.certificate_key)?;
        fs::write(place.folder.join(CERTIFICATE), both)?;
    }
    if !is_open(setup) {
        let lines = keys(setup, place).into_iter().map(|(key, consumer)| format!("{key} {consumer}\n"));
        fs::write(place.folder.join("keys.map"), lines.collect::<String>())?;
        let lines = routes(setup).into_iter().map(|path| format!("{path}/ known\n"));
        fs::write(place.folder.join("routes.map"), lines.collect::<String>())?;
    }
    let file = place.folder.join("haproxy.cfg");
    fs::write(&file, configuration(setup, place)?)?;
    Ok(file)
}

/// What the shell does before it becomes HAProxy: starts who collects the lines.
fn writer(place: &Place) -> io::Result<String> {
    let (socat, socket) = (quoted(&tools::find("socat")?), quoted(&place.folder.join("lines.sock")));
    fill(WRITER, &[("SOCAT", &socat), ("SOCKET", &socket), ("LINES", &quoted(&place.lines))])
}

fn configuration(setup: Setup, place: &Place) -> io::Result<String> {
    let folder = place.folder.display().to_string();
    let tls = match setup {
        Setup::Tls => format!("ssl crt {folder}/{CERTIFICATE} ssl-min-ver TLSv1.3"),
        _ => String::new(),
    };
    let (rules, tables) = if is_open(setup) { (String::new(), String::new()) } else { gateway(setup, &folder)? };
    fill(
        MAIN,
        &[
            ("LISTEN", &place.listen.to_string()),
            ("TLS", &tls),
            ("RULES", &rules),
            ("CACHE_STORE", if setup == Setup::Cache { CACHE_STORE } else { "" }),
            ("UPSTREAM", &place.upstream.to_string()),
            ("TABLES", &tables),
        ],
    )
}

/// The rules of the frontend, and the tables they use.
fn gateway(setup: Setup, folder: &str) -> io::Result<(String, String)> {
    let (window, limit) = if is_limited(setup) { ("1m", "1") } else { ("1s", "100000000") };
    // The proxy in front has said who asked it; we add who asked us.
    let (trusted, forwarded_for) = if is_behind_proxy(setup) {
        (TRUSTED, r#"set-header X-Forwarded-For "%[req.fhdr(X-Forwarded-For)], %[fc_src]""#)
    } else {
        ("", "set-header X-Forwarded-For %[src]")
    };
    let is_cached = setup == Setup::Cache;
    let rules = fill(
        GATEWAY,
        &[
            ("TRUSTED", trusted),
            ("ROUTES", &if setup == Setup::Routes { fill(ROUTES, &[("FOLDER", folder)])? } else { ROUTE.to_owned() }),
            ("FOLDER", folder),
            ("LIMIT", limit),
            ("CACHE_USE", if is_cached { CACHE_USE } else { "" }),
            ("FORWARDED_FOR", forwarded_for),
        ],
    )?;
    let tables =
        fill(TABLES, &[("WINDOW", window), ("FOLDER", folder), ("CACHE", if is_cached { CACHE } else { "" })])?;
    Ok((rules, tables))
}
