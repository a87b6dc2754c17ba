//! Tollgate as a contender: a configuration for each setup, and the program that is to be measured.
//! No admin listener and no flood guard: neither is part of what the others are asked for.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::contender::{Contender, Place, Prepared, ROUTES, Setup};

/// A limit that is counted with every request and never reached.
const NEVER: &str = "limit: 100000000/min per ip";

pub struct Tollgate {
    /// The built program.
    pub program: PathBuf,
}

impl Contender for Tollgate {
    fn name(&self) -> &'static str {
        super::TOLLGATE
    }

    fn version(&self) -> io::Result<String> {
        let output = Command::new(&self.program).arg("--version").output().map_err(|error| {
            io::Error::other(format!(
                "{}: {error}; build it with `cargo build --release -p tollgate`",
                self.program.display()
            ))
        })?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().filter(|line| !line.ends_with(" unknown")).collect::<Vec<_>>().join(", "))
    }

    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared> {
        let file = place.folder.join("tollgate.yaml");
        std::fs::write(&file, configuration(setup, place))?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("-c").arg(file);
        Ok(Prepared::Command(command))
    }
}

fn configuration(setup: Setup, place: &Place) -> String {
    let mut text = String::new();
    let listen = place.listen;
    if setup == Setup::Tls {
        let (cert, key) = (place.certificate.display(), place.certificate_key.display());
        text += &format!("listen: {{address: {listen}, tls: [{{cert: {cert}, key: {key}}}], http2: false}}\n");
    } else {
        text += &format!("listen: {listen}\n");
    }
    text += &format!("admin: none\nthreads: 1\nservices:\n  upstream: [{}]\n", place.upstream);
    if matches!(setup, Setup::Addresses | Setup::LimitedAddresses) {
        text += "trusted_proxies: [127.0.0.0/8]\n";
    }
    if matches!(setup, Setup::Plain | Setup::Tls) {
        return text + "routes:\n  /*: {to: upstream, keys: none}\nlog: none\n";
    }
    text += &format!("log: {{store: none, json: {}}}\n", place.lines.display());
    text += "keys:\n";
    key(&mut text, "loadtest", &place.key);
    if setup == Setup::Keys {
        for (at, more) in place.more_keys.iter().enumerate() {
            key(&mut text, &format!("more-{at}"), more);
        }
    }
    text += "routes:\n";
    match setup {
        Setup::Cache => text += &format!("  /items: {{to: upstream, {NEVER}, cache: 1h}}\n"),
        Setup::Limited | Setup::LimitedAddresses => text += "  /items: {to: upstream, limit: 1/min per ip}\n",
        Setup::Routes => {
            text += &format!("  /items/*: {{to: upstream, {NEVER}}}\n");
            for at in 0..ROUTES - 1 {
                text += &format!("  /r/{at}/*: {{to: upstream, {NEVER}}}\n");
            }
        }
        _ => text += &format!("  /items: {{to: upstream, {NEVER}}}\n"),
    }
    text
}

fn key(text: &mut String, name: &str, key: &str) {
    let digest = Sha256::digest(key.as_bytes());
    *text += &format!("  {name}: {{sha256: ");
    for byte in digest {
        let _ = write!(text, "{byte:02x}");
    }
    *text += "}\n";
}
