//! Questions to the running gateway, through its admin listener. The address comes from the configuration's `admin` alone, or
//! from the command line: the rest of the file may be wrong. The token comes from the environment, never from the command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::config;

/// Resolving names and reading certificates may take a while; a gateway that does not answer must not hang the command.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where beyond loopback the token is looked for.
const TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";

/// The admin listener of a running gateway.
pub(super) struct Running {
    address: SocketAddr,
    token: Option<String>,
}

impl Running {
    /// At `admin`, or at the admin address of the configuration.
    pub fn find(file: impl FnOnce() -> Result<PathBuf, String>, admin: Option<SocketAddr>) -> Result<Self, String> {
        let address = match admin {
            Some(address) => address,
            None => configured(&file()?)?,
        };
        Ok(Self::at(reachable(address), std::env::var(TOKEN).ok()))
    }

    pub(super) fn at(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// The answer to `POST`, as JSON.
    pub fn post(&self, path: &str) -> Result<Value, String> {
        let request = self.agent(Some(TIMEOUT)).post(format!("http://{}{path}", self.address));
        let request = match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        self.read(request.send_empty())
    }

    /// The answer to `GET`, as JSON.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.read(self.request(path, Some(TIMEOUT)))
    }

    /// The answer to `GET` as it comes, however long that takes.
    pub fn follow(&self, path: &str) -> Result<Response<Body>, String> {
        match self.request(path, None) {
            Ok(answer) if answer.status().is_success() => Ok(answer),
            other => Err(self
                .read(other)
                .err()
                .unwrap_or_else(|| format!("{} answered in a way that it never does", self.address))),
        }
    }

    fn request(&self, path: &str, timeout: Option<Duration>) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent(timeout).get(format!("http://{}{path}", self.address));
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
        .call()
    }

    fn agent(&self, timeout: Option<Duration>) -> Agent {
        // Never through a proxy of the environment: the token is for the gateway alone.
        let config = Agent::config_builder().proxy(None).http_status_as_error(false).timeout_global(timeout);
        Agent::new_with_config(config.build())
    }

    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Value, String> {
        let address = self.address;
        let mut answer = answer.map_err(|error| {
            format!("no answer from the admin listener at {address}: {error}; is the gateway running, and is this its admin address?")
        })?;
        let status = answer.status();
        let body: Value = answer
            .body_mut()
            .read_json()
            .map_err(|error| format!("{address} answered {status}, without JSON: {error}"))?;
        if status.is_success() {
            return Ok(body);
        }
        // The listener for clients answers with problems, too.
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        if !kind.starts_with("urn:tollgate:admin:") {
            return Err(format!(
                "{address} answered {status}, but not as tollgate's admin listener: is this its admin address?"
            ));
        }
        Err(refused(&body))
    }

    /// What it says when an answer is not one of tollgate's.
    pub fn is_no_gateway(&self, lacks: &str) -> String {
        format!("{} answered without {lacks}: is this tollgate's admin listener?", self.address)
    }
}

fn configured(path: &Path) -> Result<SocketAddr, String> {
    let admin = config::load_admin(path).map_err(|problems| problems.to_string())?;
    admin.map(|admin| admin.address).ok_or_else(|| {
        format!("{}: `admin` is none, so nobody can be asked; send SIGHUP to the gateway instead", path.display())
    })
}

/// Where to connect to when it listens on every address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The problems of a refused configuration, or whatever else was the reason.
fn refused(body: &Value) -> String {
    let mut lines: Vec<&str> = Vec::new();
    if let Some(problems) = body.get("problems").and_then(Value::as_array) {
        lines.extend(problems.iter().filter_map(Value::as_str));
    }
    let detail = body.get("detail").and_then(Value::as_str).unwrap_or("refused without a reason");
    lines.push(detail);
    if body.get("status").and_then(Value::as_u64) == Some(401) {
        lines.push("The token is taken from TOLLGATE_ADMIN_TOKEN.");
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lists_the_problems_first() {
        let body =
            serde_json::json!({"status": 422, "detail": "The old one serves on.", "problems": ["a.yaml:1:1 x: y"]});
        assert_eq!(refused(&body), "a.yaml:1:1 x: y\nThe old one serves on.");
        assert!(refused(&serde_json::json!({"status": 401, "detail": "No."})).contains("TOLLGATE_ADMIN_TOKEN"));
    }

    /// Answers one request on a port of its own, and gives back what was asked.
    fn answering(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut part = [0; 1024];
                let read = stream.read(&mut part).unwrap();
                assert_ne!(read, 0);
                request.extend_from_slice(&part[..read]);
            }
            let (status, body) = answer.split_once(' ').unwrap();
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
                .unwrap();
            String::from_utf8(request).unwrap()
        });
        (address, asked)
    }

    fn ask(address: SocketAddr) -> Result<Value, String> {
        Running::at(address, None).get("/admin/log")
    }

    #[test]
    fn the_token_is_sent() {
        let (address, asked) = answering("200 {\"generation\": 7}");
        let answer = Running::at(address, Some("s3cret".to_owned())).post("/admin/reload");
        assert_eq!(answer, Ok(serde_json::json!({"generation": 7})));
        let asked = asked.join().unwrap().to_ascii_lowercase();
        assert!(asked.starts_with("post /admin/reload http/1.1"), "{asked}");
        assert!(asked.contains("authorization: bearer s3cret"), "{asked}");
    }

    #[test]
    fn whoever_is_no_gateway_is_not_believed() {
        assert!(ask(answering("502 no").0).unwrap_err().contains("without JSON"));
        let for_clients = answering("404 {\"type\": \"urn:tollgate:no_route\", \"detail\": \"No route matches.\"}").0;
        assert!(ask(for_clients).unwrap_err().contains("is this its admin address?"));
        // Bound but never listening to HTTP: closed before the question.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap();
        let closing = std::thread::spawn(move || drop(closed.accept()));
        assert!(ask(address).unwrap_err().contains("is the gateway running"));
        closing.join().unwrap();
    }

    #[test]
    fn every_address_is_reached_on_loopback() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(reachable(address("0.0.0.0:8081")), address("127.0.0.1:8081"));
        assert_eq!(reachable(address("[::]:8081")), address("[::1]:8081"));
        assert_eq!(reachable(address("10.0.0.1:8081")), address("10.0.0.1:8081"));
    }
}
