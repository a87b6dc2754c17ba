//! What the comparison asks of every proxy: the setups, the place it runs in, and how it is started.
//! A contender that can't do a setup says why; it is shown so and not left out.
//! Not here: the proxies themselves (`contenders/`), and the jobs that are run against a setup (`job.rs`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// What every JSON line of [`Setup::Gateway`] holds, under these names: the same facts are the same work.
/// `status_code` is a number, `path` has no query, `request_id` is the one that is answered. More fields are fine.
pub const LINE_FIELDS: [&str; 9] = [
    "timestamp",
    "http_method",
    "host",
    "path",
    "status_code",
    "response_time_ms",
    "bytes_out",
    "client_ip",
    "request_id",
];

/// Routes of [`Setup::Routes`].
pub const ROUTES: usize = 10_000;

/// Keys of [`Setup::Keys`].
pub const KEYS: usize = 100_000;

/// What a proxy is configured to do. Several jobs may run against one setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setup {
    /// Every path goes to the upstream; nothing else, no access log.
    Plain,
    /// `/items` for callers with the key in `X-API-Key` (401 without or with another), a limit per client address that is
    /// never reached, a JSON line per request in [`Place::lines`] with [`LINE_FIELDS`], a request id (forwarded, and in
    /// every answer as `X-Request-Id`, refusals too), X-Forwarded-For, -Proto and -Host for the upstream; 404 for any other path, with the key.
    Gateway,
    /// [`Setup::Gateway`], and `/items` is answered from a cache in memory for an hour.
    Cache,
    /// [`Setup::Gateway`], with a limit of one request a minute and address: the first with the key to `/items` is answered
    /// with 200, further ones with 429. What is refused with 401 or 404 does not count.
    Limited,
    /// [`Setup::Plain`] behind TLS 1.3 with [`Place::certificate`].
    Tls,
    /// [`Setup::Gateway`] with 10,000 routes: `/items` and `/r/0` to `/r/9998`, each with the sub-paths below it.
    Routes,
    /// [`Setup::Gateway`] with 100,000 keys: [`Place::key`] and those of [`Place::more_keys`].
    Keys,
    /// [`Setup::Gateway`] where the client's address is the one in `X-Forwarded-For`: loopback is a trusted proxy.
    /// There is room to count 1,000,000 addresses.
    Addresses,
    /// [`Setup::Addresses`] with the limit of [`Setup::Limited`]: shows that those addresses are what is counted.
    LimitedAddresses,
}

/// Where and with what a contender runs.
pub struct Place {
    /// The address on loopback to listen on, and only there.
    pub listen: SocketAddr,
    /// The one upstream, HTTP/1.1 keep-alive.
    pub upstream: SocketAddr,
    /// An empty folder for this contender and setup: configuration, pid files, sockets. Gone afterwards.
    pub folder: PathBuf,
    /// The file for JSON lines, one a request. It is truncated between measurements: open it to append.
    pub lines: PathBuf,
    /// Certificate chain and private key, both PEM, for `localhost`.
    pub certificate: PathBuf,
    pub certificate_key: PathBuf,
    /// The key that is admitted.
    pub key: String,
    /// Further keys, for [`Setup::Keys`].
    pub more_keys: Vec<String>,
}

/// How a contender takes a setup.
pub enum Prepared {
    /// Run this in the foreground; it may have child processes, which are counted and ended with it.
    Command(Command),
    /// Why it can't do this.
    CanNot(&'static str),
}

/// A proxy that takes part.
pub trait Contender {
    /// In tables: lower case, e.g. `nginx`.
    fn name(&self) -> &'static str;

    /// What the program says of its version, or an error that names the command that installs it.
    fn version(&self) -> io::Result<String>;

    /// Writes the configuration of `setup` into the place's folder and says what to run, with one worker (thread or process)
    /// for the data path. The caller pins it to a core and waits until `listen` accepts connections.
    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared>;

    /// Whether this is no gateway but what others are held against: in jobs that it cannot do it is asked for what it can.
    fn is_reference(&self) -> bool {
        false
    }
}
