//! Varnish as a contender: the templates of `peers/varnish` put together for a setup, and the arguments of its programs.
//! varnishncsa writes the lines; it is a child of varnishd here, so its CPU time counts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::contender::{Contender, Place, Prepared, Setup};
use crate::contenders::peer::{is_behind_proxy, is_limited, is_open, quoted, with_open_files};
use crate::contenders::template::fill;
use crate::tools;

const PLAIN: &str = include_str!("../../peers/varnish/plain.vcl");
const BACKEND: &str = include_str!("../../peers/varnish/backend.vcl");
const GATEWAY: &str = include_str!("../../peers/varnish/gateway.vcl");
const CACHE: &str = include_str!("../../peers/varnish/cache.vcl");
const TRUSTED: &str = include_str!("../../peers/varnish/trusted.vcl");
const CLIENT: &str = include_str!("../../peers/varnish/client.vcl");
const CLIENT_BEHIND_PROXY: &str = include_str!("../../peers/varnish/client_behind_proxy.vcl");
const LINE: &str = include_str!("../../peers/varnish/lines.format");

/// What every setup is run with.
const PARAMETERS: [&str; 4] = [
    "thread_pools=1",       // one accepting thread; a worker thread serves one request at a time
    "thread_pool_min=100",  // more than the connections of the load, so that none is made under way
    "thread_pool_max=1000", // the default of 5000 is for slow upstreams
    "timeout_idle=600",     // idle clients stay; the default is 5 s
];

/// Every record of a request costs. These are read by nobody here; errors stay.
const UNREAD: &str = "-BackendClose,-BackendOpen,-BackendReuse,-BackendStart,-BereqAcct,-BereqHeader,-BereqMethod,\
    -BereqProtocol,-BereqURL,-BereqUnset,-BerespHeader,-BerespProtocol,-BerespReason,-BerespStatus,-BerespUnset,-Fetch_Body,\
    -Filters,-HitMiss,-HitPass,-Length,-Link,-ReqUnset,-RespProtocol,-RespReason,-RespUnset,-SessClose,-SessOpen,-Storage,-TTL,\
    -VCL_acl,-VCL_use";

/// What a line is made of. Without lines nobody reads these either.
const READ_FOR_LINES: &str = "-Begin,-End,-Hit,-ReqAcct,-ReqHeader,-ReqMethod,-ReqProtocol,-ReqStart,-ReqURL,-RespHeader,\
    -RespStatus,-Timestamp,-VCL_Log,-VCL_call,-VCL_return";

pub struct Varnish;

impl Contender for Varnish {
    fn name(&self) -> &'static str {
        "varnish"
    }

    fn version(&self) -> io::Result<String> {
        let said = tools::say(&tools::find("varnishd")?, &["-V"])?;
        let version = said.split(['(', ' ']).find(|word| word.starts_with("varnish-")).unwrap_or(said.trim());
        Ok(version.to_owned())
    }

    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared> {
        match setup {
            Setup::Tls => return Ok(Prepared::CanNot("the packaged version has no TLS")),
            // Tried: 81 s to compile on a busy machine, 2.5 ms a request for the last route.
            Setup::Routes => {
                return Ok(Prepared::CanNot(
                    "no table of routes: 10,000 conditions in VCL take a minute to compile and milliseconds a request",
                ));
            }
            Setup::Keys => {
                return Ok(Prepared::CanNot(
                    "no table of keys: VCL compares one after the other, and no packaged module looks up text",
                ));
            }
            _ => {}
        }
        let file = write(setup, place)?;
        let work = place.folder.join("work");
        fs::create_dir_all(&work)?;
        let before = if is_open(setup) { String::new() } else { writer(&work, place)? };
        let mut command = with_open_files(&tools::find("varnishd")?, &before);
        // -F: in the foreground. -j none: as another user it could not enter the folder. -T none: no command port.
        command.args(["-F", "-j", "none", "-T", "none"]);
        command.arg("-n").arg(work).arg("-a").arg(place.listen.to_string()).arg("-f").arg(file);
        command.args(["-s", "malloc,64m"]);
        for parameter in PARAMETERS {
            command.args(["-p", parameter]);
        }
        let lines = if is_open(setup) { format!(",{READ_FOR_LINES}") } else { String::new() };
        command.arg("-p").arg(format!("vsl_mask={UNREAD}{lines}"));
        Ok(Prepared::Command(command))
    }
}

/// Writes the configuration, and returns its file.
pub(super) fn write(setup: Setup, place: &Place) -> io::Result<PathBuf> {
    let file = place.folder.join("site.vcl");
    fs::write(&file, configuration(setup, place)?)?;
    Ok(file)
}

/// What the shell does before it becomes varnishd: starts the writer of lines, which waits for varnishd.
fn writer(work: &Path, place: &Place) -> io::Result<String> {
    let format = place.folder.join("lines.format");
    fs::write(&format, LINE)?;
    let program = tools::find("varnishncsa")?;
    // setpriv: it does not outlive varnishd. -j: values are escaped for JSON. -t off: waits for varnishd. -a: appends.
    Ok(format!(
        "setpriv --pdeathsig KILL {} -n {} -j -t off -f {} -a -w {} &",
        quoted(&program),
        quoted(work),
        quoted(&format),
        quoted(&place.lines)
    ))
}

fn configuration(setup: Setup, place: &Place) -> io::Result<String> {
    let (host, port) = (place.upstream.ip().to_string(), place.upstream.port().to_string());
    let backend = fill(BACKEND, &[("HOST", &host), ("PORT", &port)])?;
    if is_open(setup) {
        return fill(PLAIN, &[("BACKEND", &backend)]);
    }
    let is_cached = setup == Setup::Cache;
    fill(
        GATEWAY,
        &[
            ("BACKEND", &backend),
            ("TRUSTED", if is_behind_proxy(setup) { TRUSTED } else { "" }),
            ("CLIENT", if is_behind_proxy(setup) { CLIENT_BEHIND_PROXY } else { CLIENT }),
            ("KEY", &place.key),
            ("LIMIT", if is_limited(setup) { "1, 60s" } else { "100000000, 1s" }),
            ("ANSWER", if is_cached { "return (hash);" } else { "return (pass);" }),
            ("FRESHNESS", if is_cached { CACHE } else { "" }),
            ("HOST", &host),
            ("PORT", &port),
        ],
    )
}
