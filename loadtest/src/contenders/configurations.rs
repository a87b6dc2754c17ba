//! Tests: every configuration of every peer is rendered, and shown to the program it is for, where that is installed.
//! Not here: whether a peer then does its work, which `loadtest compare` proves with requests before it measures.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::certificate::Certificate;
use crate::contender::{KEYS, Place, Setup};
use crate::contenders::template::next_place;
use crate::contenders::{envoy, haproxy, nginx, varnish};
use crate::programs::free_address;
use crate::tools;

const SETUPS: [Setup; 9] = [
    Setup::Plain,
    Setup::Gateway,
    Setup::Cache,
    Setup::Limited,
    Setup::Tls,
    Setup::Routes,
    Setup::Keys,
    Setup::Addresses,
    Setup::LimitedAddresses,
];

/// A folder of its own, removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Render = fn(Setup, &Place) -> io::Result<PathBuf>;
type Arguments = fn(&Path, &Path) -> Vec<OsString>;

/// Renders every setup but those in `cannot`, and lets `program` check it with the arguments made of folder and file.
fn check(program: &str, render: Render, arguments: Arguments, cannot: &[Setup]) {
    let installed = tools::find(program);
    if let Err(why) = &installed {
        // Not by a macro: what those print is shown for failed tests only.
        let _ = writeln!(io::stderr(), "SKIPPED: no configuration of {program} was shown to it: {why}");
    }
    for setup in SETUPS.into_iter().filter(|setup| !cannot.contains(setup)) {
        let (folder, place) = place(program, setup);
        let file = render(setup, &place).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        if let Some((_, name, _)) = next_place(&text) {
            panic!("{program}, {setup:?}: the place @{name}@ was left");
        }
        let Ok(installed) = &installed else { continue };
        let checked = Command::new(installed).args(arguments(&folder.0, &file)).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{program}, {setup:?}: {}: {said}", checked.status);
    }
}

fn place(program: &str, setup: Setup) -> (Folder, Place) {
    let name = format!("loadtest-configuration-{}-{program}-{setup:?}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).unwrap();
    let certificate = Certificate::make(&folder).unwrap();
    let place = Place {
        listen: free_address().unwrap(),
        upstream: "127.0.0.1:9".parse().unwrap(),
        lines: folder.join("lines.json"),
        certificate: certificate.chain,
        certificate_key: certificate.key,
        key: "the-key".to_owned(),
        more_keys: (1..KEYS).map(|number| format!("further-key-{number}")).collect(),
        folder: folder.clone(),
    };
    (Folder(folder), place)
}

fn words<const N: usize>(words: [&dyn AsRef<std::ffi::OsStr>; N]) -> Vec<OsString> {
    words.map(|word| word.as_ref().to_owned()).into()
}

#[test]
fn nginx_takes_its_configurations() {
    check("nginx", nginx::write, |folder, file| words([&"-t", &"-e", &"stderr", &"-p", &folder, &"-c", &file]), &[]);
}

#[test]
fn haproxy_takes_its_configurations() {
    check("haproxy", haproxy::write, |_, file| words([&"-c", &"-f", &file]), &[]);
}

#[test]
fn varnish_takes_its_configurations() {
    let cannot = [Setup::Tls, Setup::Routes, Setup::Keys];
    // -C: translates to C, and ends.
    check("varnishd", varnish::write, |folder, file| words([&"-C", &"-n", &folder, &"-f", &file]), &cannot);
}

#[test]
fn envoy_takes_its_configurations() {
    let arguments: Arguments = |_, file| words([&"--mode", &"validate", &"-l", &"error", &"-c", &file]);
    check("envoy", envoy::write, arguments, &[]);
}
