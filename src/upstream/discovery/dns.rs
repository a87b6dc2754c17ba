//! Names and SRV records, asked of DNS (RFC 1035, RFC 2782): which addresses, and for how long the answer holds.
//! The client library ends here. No cache: whoever asks knows when. Not here: when to ask, and what to do without an answer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use tokio::sync::Semaphore;

use super::{Address, Addresses, INSTANCES_MAX, Listed};
use crate::config::DnsServer;

/// One answer of a server; it is asked twice.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);
/// One question, all servers and suffixes of the name included.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// All questions of a start or a reload together.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions that are asked at once.
const AT_ONCE: usize = 32;
/// Targets of SRV records, whose addresses are looked up.
const TARGETS_MAX: usize = 256;
/// No answer holds longer: a file of hosts, which has no TTL, would otherwise hold for ever.
const TTL_MAX: Duration = Duration::from_secs(3_600);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum Query {
    /// The addresses of a name, and the port they get.
    Name(String, u16),
    /// Records that name targets with ports.
    Srv(String),
}

/// What was answered.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Answer {
    found: Addresses,
    /// Kinds of addresses, IPv6 or not, that nothing was learned about: those of before stay.
    unknown: [bool; 2],
    /// How long it holds.
    pub ttl: Duration,
}

/// Whom names are asked of.
pub(super) struct Resolver {
    servers: Vec<DnsServer>,
    /// Made by the first who asks in the background: what it runs beside itself ends with the runtime it was made on.
    client: OnceLock<Result<TokioResolver, String>>,
}

impl Query {
    /// Of `name:port`, which was checked when the configuration was read.
    pub fn of_name(address: &str) -> Self {
        let (name, port) = address.rsplit_once(':').unwrap_or((address, ""));
        Self::Name(name.to_ascii_lowercase(), port.parse().unwrap_or_default())
    }

    /// Of `_service._protocol.name`.
    pub fn of_srv(name: &str) -> Self {
        Self::Srv(name.to_ascii_lowercase())
    }
}

impl fmt::Display for Query {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, port) => write!(out, "{name}:{port}"),
            Self::Srv(name) => out.write_str(name),
        }
    }
}

impl Answer {
    /// The list, where `before` is what held until now.
    pub fn listed(&self, before: &Addresses) -> Addresses {
        let is_unknown = |listed: &&Listed| matches!(listed.address, Address::Inet(address) if self.unknown[usize::from(address.is_ipv6())]);
        let mut listed = self.found.clone();
        listed.extend(before.iter().filter(is_unknown).cloned());
        listed
    }
}

/// The addresses of a name, by kind.
struct Ips {
    found: BTreeSet<IpAddr>,
    unknown: [bool; 2],
    ttl: Duration,
}

impl Resolver {
    /// Without `servers` those of the system.
    pub fn new(servers: &[DnsServer]) -> Self {
        Self { servers: servers.to_vec(), client: OnceLock::new() }
    }

    /// One answer.
    ///
    /// # Errors
    /// Why there is none: nobody answers, there is no such name, or it has no address.
    pub async fn ask(&self, query: &Query) -> Result<Answer, String> {
        static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

        let _turn = TURNS.acquire().await.map_err(|error| error.to_string())?;
        let client = self.client.get_or_init(|| client(&self.servers)).as_ref().map_err(Clone::clone)?;
        question(client, query).await
    }

    /// Many answers, and all of them within the time of a start.
    pub fn ask_all(&self, queries: impl Iterator<Item = Query>) -> HashMap<Query, Result<Answer, String>> {
        let queries: HashSet<Query> = queries.collect();
        if queries.is_empty() {
            return HashMap::new();
        }
        let nothing = |why: String| queries.iter().map(|query| (query.clone(), Err(why.clone()))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answers = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            let _inside = runtime.enter();
            let client = client(&self.servers)?;
            let mut answers: HashMap<Query, Result<Answer, String>> =
                nothing(format!("no answer from DNS within {START_TIMEOUT:?}"));
            runtime.block_on(async {
                let asking = stream::iter(&queries).map(async |query| (query.clone(), question(&client, query).await));
                let asking = asking.buffer_unordered(AT_ONCE).for_each(|(query, answer)| {
                    answers.insert(query, answer);
                    std::future::ready(())
                });
                // Whoever has no answer by then keeps the word that there is none.
                let _ = tokio::time::timeout(START_TIMEOUT, asking).await;
            });
            Ok(answers)
        });
        answers.unwrap_or_else(nothing)
    }
}

fn client(servers: &[DnsServer]) -> Result<TokioResolver, String> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| format!("can't read the system's DNS servers: {error}"))?
    } else {
        let at = |server: &DnsServer| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.0.port();
                connection
            });
            NameServerConfig::new(server.0.ip(), true, connections.into())
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(at).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = SERVER_TIMEOUT;
    options.attempts = 2;
    builder.build().map_err(|error| format!("no DNS client: {error}"))
}

async fn question(client: &TokioResolver, query: &Query) -> Result<Answer, String> {
    let answer = async {
        match query {
            Query::Name(name, port) => {
                let ips = ips(client, name).await?;
                let listed = |ip| Listed { address: SocketAddr::new(ip, *port).into(), weight: 1, is_backup: false };
                Ok(Answer { found: ips.found.into_iter().map(listed).collect(), unknown: ips.unknown, ttl: ips.ttl })
            }
            Query::Srv(name) => srv(client, name).await,
        }
    };
    let within = tokio::time::timeout(QUESTION_TIMEOUT, answer).await;
    let mut answer = within.unwrap_or_else(|_| Err(format!("no answer from DNS within {QUESTION_TIMEOUT:?}")))?;
    if answer.found.len() > INSTANCES_MAX {
        return Err(format!("{query} has {} addresses, more than {INSTANCES_MAX}", answer.found.len()));
    }
    answer.ttl = answer.ttl.min(TTL_MAX);
    Ok(answer)
}

/// The addresses of a name, of both kinds. An answer about one of them is an answer: some servers are silent about the other.
async fn ips(client: &TokioResolver, name: &str) -> Result<Ips, String> {
    // A name is not asked for as an address: `lookup_ip` would forget what it was not told.
    let (v4, v6) = tokio::join!(client.lookup(name, RecordType::A), client.lookup(name, RecordType::AAAA));
    let mut ips = Ips { found: BTreeSet::new(), unknown: [false; 2], ttl: TTL_MAX };
    let mut problem = None;
    for (kind, lookup) in [v4, v6].into_iter().enumerate() {
        match lookup {
            Ok(lookup) => {
                for record in lookup.answers() {
                    ips.ttl = ips.ttl.min(Duration::from_secs(record.ttl.into()));
                    match &record.data {
                        RData::A(address) => ips.found.insert(IpAddr::V4(address.0)),
                        RData::AAAA(address) => ips.found.insert(IpAddr::V6(address.0)),
                        _ => false,
                    };
                }
            }
            Err(error) if error.is_no_records_found() => {
                problem.get_or_insert_with(|| match error.is_nx_domain() {
                    true => "there is no such name".to_owned(),
                    false => "it has no address".to_owned(),
                });
            }
            Err(error) => {
                ips.unknown[kind] = true;
                problem = Some(error.to_string());
            }
        }
    }
    let problem = || problem.unwrap_or_else(|| "it has no address".to_owned());
    if ips.found.is_empty() { Err(format!("`{name}` does not resolve: {}", problem())) } else { Ok(ips) }
}

/// Targets by priority; their weights become 1 to 100.
async fn srv(client: &TokioResolver, name: &str) -> Result<Answer, String> {
    let wrong = |why: String| format!("SRV `{name}`: {why}");
    let lookup = client.lookup(name, RecordType::SRV).await.map_err(|error| match error {
        error if error.is_nx_domain() => wrong("there is no such name".to_owned()),
        error if error.is_no_records_found() => wrong("it has no SRV records".to_owned()),
        error => wrong(error.to_string()),
    })?;
    let mut ttl = TTL_MAX;
    let mut records = Vec::new();
    for record in lookup.answers() {
        ttl = ttl.min(Duration::from_secs(record.ttl.into()));
        // The root as the target says that the service is not there (RFC 2782).
        if let RData::SRV(srv) = &record.data
            && !srv.target.is_root()
            && srv.port != 0
        {
            records.push(srv);
        }
    }
    if records.len() > TARGETS_MAX {
        return Err(wrong(format!("it names {} targets, more than {TARGETS_MAX}", records.len())));
    }
    let first = records.iter().map(|srv| srv.priority).min().ok_or_else(|| wrong("it names no target".to_owned()))?;
    let heaviest = records.iter().map(|srv| srv.weight).max().unwrap_or_default();
    let asking: FuturesUnordered<_> =
        records.into_iter().map(async |srv| (srv, ips(client, &srv.target.to_string()).await)).collect();
    let mut answer = Answer { found: Addresses::new(), unknown: [false; 2], ttl };
    let mut by_address: BTreeMap<SocketAddr, (u16, Listed)> = BTreeMap::new();
    for (srv, ips) in asking.collect::<Vec<_>>().await {
        // A list without one of its targets would take instances away that may well be there.
        let ips = ips.map_err(wrong)?;
        answer.ttl = answer.ttl.min(ips.ttl);
        answer.unknown = [answer.unknown[0] || ips.unknown[0], answer.unknown[1] || ips.unknown[1]];
        for ip in ips.found {
            let address = SocketAddr::new(ip, srv.port);
            let weight = scaled(srv.weight, heaviest);
            let listed = Listed { address: address.into(), weight, is_backup: srv.priority > first };
            let entry = by_address.entry(address).or_insert_with(|| (srv.priority, listed.clone()));
            if srv.priority < entry.0 {
                *entry = (srv.priority, listed);
            }
        }
    }
    answer.found = by_address.into_values().map(|(_, listed)| listed).collect();
    Ok(answer)
}

/// SRV has weights from 0 to 65535, an instance from 1 to 100. As they are, where they fit.
fn scaled(weight: u16, heaviest: u16) -> u16 {
    let weight = u32::from(weight);
    let weight = if heaviest <= 100 { weight } else { (weight * 100).div_ceil(u32::from(heaviest)) };
    weight.clamp(1, 100) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_srv_become_those_of_instances() {
        assert_eq!((scaled(0, 0), scaled(7, 100), scaled(0, 100)), (1, 7, 1));
        assert_eq!((scaled(65_535, 65_535), scaled(32_768, 65_535), scaled(1, 65_535)), (100, 51, 1));
    }

    #[test]
    fn what_was_not_learned_stays() {
        let listed = |address: &str| Listed { address: Address::parse(address).unwrap(), weight: 1, is_backup: false };
        let before = Addresses::from([listed("127.0.0.1:80"), listed("[::1]:80")]);
        let found = Addresses::from([listed("127.0.0.2:80")]);
        let answer = |unknown| Answer { found: found.clone(), unknown, ttl: Duration::ZERO };
        assert_eq!(answer([false, false]).listed(&before), found);
        let with_v6 = Addresses::from([listed("127.0.0.2:80"), listed("[::1]:80")]);
        assert_eq!(answer([false, true]).listed(&before), with_v6);
    }

    #[test]
    fn localhost_needs_no_server() {
        let resolver = Resolver::new(&[DnsServer::parse("127.0.0.1:9").unwrap()]);
        let query = Query::of_name("localhost:80");
        let answers = resolver.ask_all([query.clone()].into_iter());
        let listed = answers[&query].as_ref().unwrap().listed(&Addresses::new());
        assert!(
            !listed.is_empty()
                && listed
                    .iter()
                    .all(|listed| matches!(listed.address, Address::Inet(address) if address.ip().is_loopback()))
        );
    }

    #[test]
    fn a_name_that_is_none_is_said_so() {
        let resolver = Resolver::new(&[DnsServer::parse("127.0.0.1:9").unwrap()]);
        let query = Query::of_name("no-such-host.invalid:80");
        let answers = resolver.ask_all([query.clone()].into_iter());
        assert!(answers[&query].as_ref().unwrap_err().contains("does not resolve"));
    }
}
