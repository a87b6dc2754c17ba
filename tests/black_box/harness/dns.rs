//! A DNS server that says what its test wants: addresses and SRV records with any TTL, no such name, an error, or nothing at all.
//! UDP only, and no more of RFC 1035 than a question needs.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What it does with questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    Answers,
    /// It takes questions and says nothing.
    Silent,
    /// It says that it can't (SERVFAIL).
    Fails,
    /// It says that there is no such name, whatever the name (NXDOMAIN).
    KnowsNothing,
}

/// A target of SRV records: priority, weight, port, name.
pub type Target = (u16, u16, u16, &'static str);

/// A running DNS server.
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    questions: Arc<AtomicUsize>,
    running: AbortHandle,
}

struct Zone {
    mood: Mood,
    ttl: u32,
    addresses: HashMap<String, Vec<IpAddr>>,
    targets: HashMap<String, Vec<Target>>,
}

impl Dns {
    /// A server whose answers hold for so many seconds.
    pub async fn start(ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("its address");
        let zone = Zone { mood: Mood::Answers, ttl, addresses: HashMap::new(), targets: HashMap::new() };
        let (zone, questions) = (Arc::new(Mutex::new(zone)), Arc::new(AtomicUsize::new(0)));
        let (inner, count) = (Arc::clone(&zone), Arc::clone(&questions));
        let running = tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = inner.lock().expect("the zone").answer(&buffer[..length]);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Self { address, zone, questions, running: running.abort_handle() }
    }

    /// The line of the configuration that names it.
    pub fn section(&self) -> String {
        format!("discovery: {{resolver: \"{}\"}}", self.address)
    }

    /// The addresses of a name from now on.
    pub fn says(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.zone.lock().expect("the zone").addresses.insert(name.to_owned(), addresses);
    }

    /// The SRV records of a name from now on.
    pub fn says_targets(&self, name: &str, targets: &[Target]) {
        self.zone.lock().expect("the zone").targets.insert(name.to_owned(), targets.to_vec());
    }

    pub fn is(&self, mood: Mood) {
        self.zone.lock().expect("the zone").mood = mood;
    }

    /// Questions that came.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Zone {
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        if self.mood == Mood::Silent {
            return None;
        }
        let (name, end) = read_name(question)?;
        let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
        let known = self.addresses.contains_key(&name) || self.targets.contains_key(&name);
        let code = match self.mood {
            Mood::Fails => 2,
            Mood::KnowsNothing => 3,
            Mood::Answers | Mood::Silent if !known => 3,
            Mood::Answers | Mood::Silent => 0,
        };
        let records = if code == 0 { self.records(&name, kind) } else { Vec::new() };
        let mut answer = question[..2].to_vec();
        answer.extend([0x84, 0x80 | code]); // an answer, with authority; recursion is available
        answer.extend([0, 1]);
        answer.extend((records.len() as u16).to_be_bytes());
        answer.extend([0, 0, 0, 0]);
        answer.extend(&question[12..end + 4]);
        for record in records {
            answer.extend([0xc0, 12]); // the name of the question
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(self.ttl.to_be_bytes());
            answer.extend((record.len() as u16).to_be_bytes());
            answer.extend(record);
        }
        Some(answer)
    }

    fn records(&self, name: &str, kind: u16) -> Vec<Vec<u8>> {
        let addresses = self.addresses.get(name).into_iter().flatten();
        match kind {
            A | AAAA => addresses
                .filter_map(|address| match address {
                    IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
                    IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
                    _ => None,
                })
                .collect(),
            SRV => self.targets.get(name).into_iter().flatten().map(srv).collect(),
            _ => Vec::new(),
        }
    }
}

fn srv((priority, weight, port, name): &Target) -> Vec<u8> {
    let mut record: Vec<u8> = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
    for label in name.split('.') {
        record.push(label.len() as u8);
        record.extend(label.as_bytes());
    }
    record.push(0);
    record
}

/// The name of the question, in lower case, and where it ends.
fn read_name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        let label = question.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
    }
}
