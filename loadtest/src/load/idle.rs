//! Connections that asked once and then wait, held by this process: what they cost whoever holds the other end.
//! They come from several addresses of loopback, so that neither ports nor limits per client run out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::{only_loopback, parse};

/// As many connections come from one address: below what gateways allow one client.
const PER_ADDRESS: u32 = 2_000;
/// At the same time, so that the connections to the upstream stay few.
const ASKING_MAX: usize = 32;
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Files that are open beside the connections: a proxy has as many connections to its upstream, logs, listeners.
const OTHER_FILES: u64 = 1_000;

/// Open connections; dropping them closes them.
pub struct Connections {
    runtime: Runtime,
    open: Vec<TcpStream>,
    address: SocketAddr,
    path: &'static str,
}

/// Raises the limit of open files, which programs started later inherit: how many of `wanted` connections it allows.
pub fn allowed(wanted: u32) -> io::Result<u32> {
    let needed = u64::from(wanted) + OTHER_FILES;
    let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE)?;
    if soft < needed {
        // More than the hard limit is for the superuser only.
        let raised = rlimit::setrlimit(rlimit::Resource::NOFILE, needed, hard.max(needed));
        if raised.is_err() {
            rlimit::setrlimit(rlimit::Resource::NOFILE, hard.min(needed), hard)?;
        }
    }
    let (soft, _) = rlimit::getrlimit(rlimit::Resource::NOFILE)?;
    Ok(u32::try_from(soft.saturating_sub(OTHER_FILES)).unwrap_or(u32::MAX).min(wanted))
}

impl Connections {
    /// Opens `count` connections and has one request answered with 200 on each.
    pub fn open(address: SocketAddr, path: &'static str, count: u32) -> io::Result<Self> {
        only_loopback(address)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let open = runtime.block_on(async {
            let turns = Arc::new(Semaphore::new(ASKING_MAX));
            let mut tasks = JoinSet::new();
            for number in 0..count {
                let turns = Arc::clone(&turns);
                tasks.spawn(async move {
                    let _turn = turns.acquire_owned().await.map_err(io::Error::other)?;
                    let mut stream = connect(address, source(number)).await?;
                    ask(&mut stream, address, path).await?;
                    Ok::<_, io::Error>(stream)
                });
            }
            all(tasks).await
        })?;
        Ok(Self { runtime, open, address, path })
    }

    /// Has one more request answered on each: none of them may have been closed meanwhile.
    pub fn ask_again(self) -> io::Result<Self> {
        let Self { runtime, open, address, path } = self;
        let open = runtime.block_on(async {
            let turns = Arc::new(Semaphore::new(ASKING_MAX));
            let mut tasks = JoinSet::new();
            for mut stream in open {
                let turns = Arc::clone(&turns);
                tasks.spawn(async move {
                    let _turn = turns.acquire_owned().await.map_err(io::Error::other)?;
                    ask(&mut stream, address, path).await?;
                    Ok::<_, io::Error>(stream)
                });
            }
            all(tasks).await
        })?;
        Ok(Self { runtime, open, address, path })
    }

    pub fn count(&self) -> u32 {
        self.open.len() as u32
    }
}

async fn all(mut tasks: JoinSet<io::Result<TcpStream>>) -> io::Result<Vec<TcpStream>> {
    let wanted = tasks.len();
    let mut open = Vec::with_capacity(wanted);
    while let Some(stream) = tasks.join_next().await {
        let stream = stream.map_err(io::Error::other)?;
        let so_far = open.len();
        open.push(stream.map_err(|error| {
            io::Error::new(error.kind(), format!("after {so_far} of {wanted} idle connections: {error}"))
        })?);
    }
    Ok(open)
}

/// Where the connection with this number comes from: 127.0.0.2 and up.
pub fn source(number: u32) -> SocketAddr {
    let host = number / PER_ADDRESS + 2;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, (host >> 8) as u8, host as u8)), 0)
}

/// A connection that comes from `source`.
pub async fn connect(address: SocketAddr, source: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(source)?;
    socket.connect(address).await
}

async fn ask(stream: &mut TcpStream, address: SocketAddr, path: &str) -> io::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        loop {
            let read = stream.read_buf(&mut bytes).await?;
            match parse(&bytes, false) {
                Some(answer) if answer.status == 200 && answer.header("connection") != "close" => return Ok(()),
                Some(answer) => return Err(io::Error::other(format!("answered {}", answer.brief()))),
                None if read == 0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                None => {}
            }
        }
    };
    tokio::time::timeout(ANSWER_MAX, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_addresses_of_loopback_with_few_connections_each() {
        assert_eq!(source(0).ip().to_string(), "127.0.0.2");
        assert_eq!(source(PER_ADDRESS).ip().to_string(), "127.0.0.3");
        assert_eq!(source(9_999).ip().to_string(), "127.0.0.6");
        assert!(only_loopback(source(u32::MAX / 2)).is_ok());
    }

    #[test]
    fn connections_stay_and_are_asked_again() {
        let address = crate::programs::free_address().unwrap();
        std::thread::spawn(move || crate::upstream::run(address, None));
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        let connections = Connections::open(address, "/items", 40).unwrap();
        assert_eq!(connections.ask_again().unwrap().count(), 40);
    }

    #[test]
    fn nobody_else_is_connected_to() {
        assert!(Connections::open("10.0.0.1:80".parse().unwrap(), "/", 1).is_err());
    }
}
