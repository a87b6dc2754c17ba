//! nginx as a contender: the templates of `peers/nginx` put together for a setup.
//! Not here: why a directive is set, which the templates say.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::contender::{Contender, Place, Prepared, Setup};
use crate::contenders::peer::{is_behind_proxy, is_limited, is_open, keys, routes, with_open_files};
use crate::contenders::template::fill;
use crate::tools;

const MAIN: &str = include_str!("../../peers/nginx/nginx.conf");
const PLAIN: &str = include_str!("../../peers/nginx/plain.conf");
const TLS: &str = include_str!("../../peers/nginx/tls.conf");
const GATEWAY: &str = include_str!("../../peers/nginx/gateway.conf");
const ROUTE: &str = include_str!("../../peers/nginx/route.conf");
const TRUSTED: &str = include_str!("../../peers/nginx/trusted.conf");
const CACHE_STORE: &str = include_str!("../../peers/nginx/cache_store.conf");
const CACHE: &str = include_str!("../../peers/nginx/cache.conf");

/// Never reached. nginx counts in milliseconds, so a burst has to cover what comes within one.
const NEVER: (&str, &str) = ("1000000r/s", "burst=1000000 nodelay");

pub struct Nginx;

impl Contender for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> io::Result<String> {
        let said = tools::say(&tools::find("nginx")?, &["-v"])?;
        Ok(said.trim().trim_start_matches("nginx version: ").to_owned())
    }

    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared> {
        let file = write(setup, place)?;
        let mut command = with_open_files(&tools::find("nginx")?, "");
        // -e: until the configuration is read, nginx writes its errors to the distribution's file.
        command.arg("-p").arg(&place.folder).arg("-e").arg("stderr").arg("-c").arg(file);
        Ok(Prepared::Command(command))
    }
}

/// Writes the configuration, and returns its file.
pub(super) fn write(setup: Setup, place: &Place) -> io::Result<PathBuf> {
    if !is_open(setup) {
        let lines = keys(setup, place).into_iter().map(|(key, consumer)| format!("\"{key}\" {consumer};\n"));
        fs::write(place.folder.join("keys.map"), lines.collect::<String>())?;
    }
    let file = place.folder.join("nginx.conf");
    fs::write(&file, configuration(setup, place)?)?;
    Ok(file)
}

fn configuration(setup: Setup, place: &Place) -> io::Result<String> {
    let (listen, folder) = (place.listen.to_string(), place.folder.display().to_string());
    let setup = if is_open(setup) { open(setup, place, &listen)? } else { gateway(setup, place, &listen, &folder)? };
    // Started by root, the worker would become a user that may not enter the folder.
    let user = if fs::metadata("/proc/self")?.uid() == 0 { "user root;" } else { "" };
    fill(MAIN, &[("USER", user), ("FOLDER", &folder), ("UPSTREAM", &place.upstream.to_string()), ("SETUP", &setup)])
}

fn open(setup: Setup, place: &Place, listen: &str) -> io::Result<String> {
    if setup != Setup::Tls {
        return fill(PLAIN, &[("LISTEN", listen), ("TLS", "")]);
    }
    let certificate = place.certificate.display().to_string();
    let certificate_key = place.certificate_key.display().to_string();
    let tls = fill(TLS, &[("CERTIFICATE", &certificate), ("CERTIFICATE_KEY", &certificate_key)])?;
    fill(PLAIN, &[("LISTEN", &format!("{listen} ssl")), ("TLS", &tls)])
}

fn gateway(setup: Setup, place: &Place, listen: &str, folder: &str) -> io::Result<String> {
    let (rate, burst) = if is_limited(setup) { ("1r/m", "") } else { NEVER };
    let (trusted, forwarded_for) = if is_behind_proxy(setup) {
        (TRUSTED, r#""$http_x_forwarded_for, $realip_remote_addr""#)
    } else {
        ("", "$remote_addr")
    };
    let (cache_store, cache) = match setup {
        Setup::Cache => (fill(CACHE_STORE, &[("FOLDER", folder)])?, CACHE),
        _ => (String::new(), ""),
    };
    fill(
        GATEWAY,
        &[
            ("FOLDER", folder),
            ("RATE", rate),
            ("LINES", &place.lines.display().to_string()),
            ("CACHE_STORE", &cache_store),
            ("LISTEN", listen),
            ("TRUSTED", trusted),
            ("FORWARDED_FOR", forwarded_for),
            ("BURST", burst),
            ("CACHE", cache),
            ("ROUTES", &locations(setup)?),
        ],
    )
}

/// A location for `/items`; with many routes one more for what is below, since a prefix alone would match `/items2`.
fn locations(setup: Setup) -> io::Result<String> {
    if setup != Setup::Routes {
        return fill(ROUTE, &[("PATTERN", "= /items")]);
    }
    let mut text = String::new();
    for path in routes(setup) {
        text += &fill(ROUTE, &[("PATTERN", &format!("= {path}"))])?;
        text += &fill(ROUTE, &[("PATTERN", &format!("{path}/"))])?;
    }
    Ok(text)
}
