//! The command line: which instances run where, how slow and how faulty they start.
//! What changes while they run is in `control.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

/// User, product and order services to try a gateway on.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Each instance answers on its own port:
  GET  /users  /users/1          user instances (products and orders alike)
  POST /users                    echoes the body with an id, 201
  GET  /hello  /data  /health    small answers; /hello speaks the language of Accept-Language
  ANY  /echo                     what arrived: method, path, query, headers, body
  GET  /hits                     requests so far, by path
  GET  /arrivals                 the last requests: when, method, path, and X-Id, Idempotency-Key or X-Request-Id

A query shapes the answer of any of them:
  ?status=503 ?delay_ms=200 ?bytes=65536
  ?cache_control=max-age=5 &vary=Accept-Language &etag=v1 &age=3 &expires=0 &set_cookie=a=b

Breaking and mending a running instance:
  curl -X POST 127.0.0.1:9101/simulate-failure
  curl -X POST 127.0.0.1:9101/simulate-failure -d '{\"mode\": \"hang\"}'
  modes:   errors (with \"status\", \"retry_after\"), hang, slow (\"latency\"), drip (\"pause\"), reset, reset_body,
           truncate, garbage, stale (closes a kept connection when it is used again), close, refuse
  further: \"path\": \"/users\" (only below), \"rate\": 0.2 (share of requests), \"for\": \"2s\" (mended then;
           close and refuse need it)
  curl -X POST 127.0.0.1:9101/simulate-latency -d '{\"latency\": \"50ms..200ms\"}'
  curl -X POST 127.0.0.1:9101/simulate-recovery

Every answer names its instance in X-Instance."
)]
pub struct Options {
    /// First of six ports on 127.0.0.1: two for user, two for product, two for order.
    #[arg(long, default_value_t = 9101, value_parser = clap::value_parser!(u16).range(1..=65530))]
    pub base_port: u16,
    /// An instance instead of the six, any number of times: `user=127.0.0.1:9101` (port 0 takes a free one).
    #[arg(long = "instance", value_name = "SERVICE=ADDRESS")]
    pub instances: Vec<ServiceAt>,
    /// How long answers take: `20ms`, or a range `5ms..20ms`.
    #[arg(long, default_value = "0ms")]
    pub latency: Latency,
    /// Share of requests answered with 500, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub error_rate: f64,
    /// Also writes what /arrivals tells to this file, all of it, a line of JSON each, before it is answered.
    #[arg(long, value_name = "FILE")]
    pub arrivals: Option<PathBuf>,
}

/// A service of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Service {
    /// People.
    User,
    /// Things.
    Product,
    /// Who bought what.
    Order,
}

/// `--instance`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceAt {
    /// What it serves.
    pub service: Service,
    /// Where.
    pub address: SocketAddr,
}

/// One instance to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// `user-1`: what `X-Instance` says.
    pub name: String,
    /// What it serves.
    pub service: Service,
    /// Where.
    pub address: SocketAddr,
}

/// How long answers take, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// At least.
    pub from: Duration,
    /// At most.
    pub to: Duration,
}

impl Options {
    /// The instances to start, named by service and number.
    pub fn places(&self) -> Vec<Place> {
        let wanted = if self.instances.is_empty() { self.six() } else { self.instances.clone() };
        let mut places: Vec<Place> = Vec::with_capacity(wanted.len());
        for ServiceAt { service, address } in wanted {
            let number = places.iter().filter(|place| place.service == service).count() + 1;
            places.push(Place { name: format!("{}-{number}", service.name()), service, address });
        }
        places
    }

    fn six(&self) -> Vec<ServiceAt> {
        [Service::User, Service::User, Service::Product, Service::Product, Service::Order, Service::Order]
            .into_iter()
            .zip(self.base_port..)
            .map(|(service, port)| ServiceAt { service, address: SocketAddr::from(([127, 0, 0, 1], port)) })
            .collect()
    }
}

impl Service {
    /// The word on the command line and in instance names.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Product => "product",
            Self::Order => "order",
        }
    }
}

impl FromStr for ServiceAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, address) = text.split_once('=').ok_or("write it as SERVICE=ADDRESS, e.g. user=127.0.0.1:9101")?;
        let service = match service {
            "user" => Service::User,
            "product" => Service::Product,
            "order" => Service::Order,
            other => return Err(format!("no service `{other}`: user, product or order")),
        };
        let address = address.parse().map_err(|_| format!("`{address}` is not an address such as 127.0.0.1:9101"))?;
        Ok(Self { service, address })
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = match text.split_once("..") {
            Some((from, to)) => (parse_duration(from)?, parse_duration(to)?),
            None => {
                let fixed = parse_duration(text)?;
                (fixed, fixed)
            }
        };
        if from > to { Err(format!("`{text}` ends before it begins")) } else { Ok(Self { from, to }) }
    }
}

/// `20ms`, `1s`
///
/// # Errors
/// What would be a time.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 20ms or 1s");
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(wrong()),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share between 0 and 1, e.g. 0.01")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once(&"mock_backends").chain(arguments))
    }

    #[test]
    fn the_help_is_complete() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn six_instances_by_default() {
        let places = options(&[]).unwrap().places();
        let named: Vec<_> = places.iter().map(|place| format!("{} {}", place.name, place.address.port())).collect();
        assert_eq!(
            named,
            ["user-1 9101", "user-2 9102", "product-1 9103", "product-2 9104", "order-1 9105", "order-2 9106"]
        );
    }

    #[test]
    fn instances_can_be_named_one_by_one() {
        let places =
            options(&["--instance", "order=127.0.0.1:0", "--instance", "order=127.0.0.1:9200"]).unwrap().places();
        assert_eq!(places[0].name, "order-1");
        assert_eq!((places[1].name.as_str(), places[1].address.port()), ("order-2", 9200));
    }

    #[test]
    fn wrong_values_are_refused_with_the_right_form() {
        for (arguments, says) in [
            (["--instance", "user:9101"], "SERVICE=ADDRESS"),
            (["--instance", "cart=127.0.0.1:1"], "user, product or order"),
            (["--latency", "5"], "20ms"),
            (["--latency", "20ms..5ms"], "ends before it begins"),
            (["--error-rate", "2"], "between 0 and 1"),
        ] {
            let error = options(&arguments).unwrap_err().to_string();
            assert!(error.contains(says), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_latency_is_one_time_or_a_range() {
        assert_eq!("0".parse(), Ok(Latency::default()));
        let range: Latency = "5ms..2s".parse().unwrap();
        assert_eq!((range.from.as_millis(), range.to.as_millis()), (5, 2000));
    }
}
