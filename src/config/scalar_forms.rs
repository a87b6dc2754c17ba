//! Scalars with a text form of their own that belong to one field: addresses, networks, flood guard, places of keys, digests.
//! Each `parse` says what is wrong with the text and what would be right; a text that may be a key is not repeated.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::rate::{Per, Window, parse as parse_rate};
use super::schema::{Digest, FloodGuard, JsonLines, KeyPlace, Spool};
use super::text::text_form;
use super::units::split;

text_form!(FloodGuard, "requests of one address in a window, such as `500/s per ip`", "");
text_form!(KeyPlace, "the name of a request header, `bearer`, or `query:NAME`", "");
text_form!(JsonLines, "`none`, `stdout`, or a path", "");
text_form!(Spool, "a folder, or `none`", "");
text_form!(Digest, "a SHA-256 digest, 64 hex digits", r"^([0-9a-fA-F]{64}|.*\$\{.+\}.*)$");

/// Reads an address to listen on.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(format!("`{text}`: a port is 1 to 65535")) } else { Ok(address) };
    }
    if text.parse::<u64>().is_ok() {
        return Err(format!("`{text}` is only a port: write 127.0.0.1:{text}, or 0.0.0.0:{text} for all networks"));
    }
    if text.contains("://") {
        return Err(format!("`{text}`: an address has no scheme: write IP:PORT, such as 127.0.0.1:8080"));
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("`{text}` has no port: write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080"));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_err() => Err(match (host.is_empty(), port.parse::<i64>()) {
            (_, Ok(_)) => format!("`{text}`: a port is 1 to 65535"),
            _ => format!("`{text}` is no address: write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        }),
        Some(("", port)) => {
            Err(format!("`{text}` has no address: write 127.0.0.1:{port}, or 0.0.0.0:{port} for all networks"))
        }
        Some(("*", port)) => Err(format!("`{text}`: all networks are written 0.0.0.0:{port} or [::]:{port}")),
        Some(("localhost", port)) => Err(format!("`{text}`: an IP address is needed here: write 127.0.0.1:{port}")),
        _ => Err(format!("`{text}` is no address: write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080")),
    }
}

/// One of `trusted_proxies`.
pub struct Network(pub ipnet::IpNet);
text_form!(Network, "a network such as 10.0.0.0/8, or an address", "");

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self(address.into()));
        }
        let network: ipnet::IpNet = text
            .parse()
            .map_err(|_| format!("`{text}` is no network: write 10.0.0.0/8, fd00::/8 or a single address"))?;
        if network.trunc() != network {
            return Err(format!("`{text}` has bits behind its mask: write {}", network.trunc()));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FloodGuard {
    /// Reads `500/s per ip`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let window =
            text.split_whitespace().next().and_then(|rate| rate.split_once('/')).map_or("", |(_, window)| window);
        if split(window).1 == "ms" {
            return Err(format!("`{text}`: the window is at least 1s, because the estimate cannot work with less"));
        }
        let (rate, per) = parse_rate(text)?;
        if rate.burst.is_some() {
            return Err(format!("`{text}`: a flood guard has no burst"));
        }
        if per.is_some_and(|per| per != [Per::Ip]) {
            return Err(format!("`{text}`: a flood guard counts per ip only"));
        }
        match rate.window {
            Window::Rolling(window) => Ok(Self { requests: rate.count, window }),
            Window::Day | Window::Month => Err(format!("`{text}`: a flood guard's window is in s, min or h")),
        }
    }
}

impl fmt::Display for FloodGuard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{} per ip", self.requests, Window::Rolling(self.window))
    }
}

impl KeyPlace {
    /// Reads `X-API-Key` or `bearer`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("bearer") {
            return Ok(Self::Bearer);
        }
        if text.eq_ignore_ascii_case("authorization") {
            return Err("a key in `Authorization: Bearer` is written `bearer`".to_owned());
        }
        if let Some(name) = text.strip_prefix("query:") {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            return match name.len() {
                1..=64 if name.bytes().all(is_plain) => Ok(Self::Query(name.to_owned())),
                _ => Err(format!("`{name}` is no parameter: 1 to 64 letters, digits, `_`, `-` and `.`")),
            };
        }
        if text == "query" {
            return Err("a parameter has a name: write query:api_key".to_owned());
        }
        let name = http::HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no header name"))?;
        if text.contains('_') {
            return Err(format!(
                "`{text}`: many servers can't tell `_` from `-` in header names, so none is read; write {}",
                text.replace('_', "-")
            ));
        }
        match name.as_str() {
            "host" | "cookie" | "content-length" | "connection" | "transfer-encoding" => {
                Err(format!("no key can be in `{text}`"))
            }
            _ => Ok(Self::Header(name)),
        }
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => out.write_str(name.as_str()),
            Self::Bearer => out.write_str("bearer"),
            Self::Query(name) => write!(out, "query:{name}"),
        }
    }
}

impl JsonLines {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "stdout" => Ok(Self::Stdout),
            "" => Err("expected `none`, `stdout` or a path".to_owned()),
            "stderr" => Err("stderr is for the program's own messages: write `stdout` or a path".to_owned()),
            "true" | "false" | "on" | "off" | "yes" | "no" => {
                Err(format!("`{text}` is not `none`, `stdout` or a path"))
            }
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for JsonLines {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Stdout => out.write_str("stdout"),
            Self::File(path) => path.display().fmt(out),
        }
    }
}

impl Spool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "usual" => Ok(Self::Usual),
            "" => Err("expected a folder, or `none`".to_owned()),
            "true" | "false" | "on" | "off" | "yes" | "no" => Err(format!("`{text}` is neither a folder nor `none`")),
            path => Ok(Self::Folder(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for Spool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Usual => out.write_str("usual"),
            Self::Folder(path) => path.display().fmt(out),
        }
    }
}

impl Digest {
    /// Reads 64 hex digits.
    ///
    /// # Errors
    /// What would be right; the text is not repeated, it may be a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("tg_") {
            return Err("this is a key, not its digest: `printf %s KEY | sha256sum` makes the digest; a key itself never stands in this file".to_owned());
        }
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let found = text.chars().count();
            return Err(format!(
                "expected a SHA-256 digest, 64 hex digits, found {found} characters; `printf %s KEY | sha256sum` makes one"
            ));
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)
                .map_err(|_| "expected hex digits".to_owned())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(out, "{byte:02x}")?;
        }
        out.write_str("...")
    }
}
