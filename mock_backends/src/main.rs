//! User, product and order services to try a gateway on: one program, several instances, each on its own port.
//! Every instance can be slowed down, broken and mended while it runs; what a request asks for in its query
//! (status, size, delay, cache headers) it gets. Not a benchmark server, and nothing is kept between two starts.

mod arrivals;
mod catalog;
mod control;
mod failure;
mod instance;
mod line;
mod options;
mod ranges;
mod wishes;

use std::io::{self, Write as _};
use std::sync::Arc;

use axum::Router;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::arrivals::Arrivals;
use crate::instance::Instance;
use crate::line::{Line, Lines};
use crate::options::Options;

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let file = options.arrivals.as_deref().map(arrivals::open).transpose()?;
    let mut serving = JoinSet::new();
    let mut places = Vec::new();
    for place in options.places() {
        let arrivals = Arrivals::into_file(file.as_ref());
        let instance = Arc::new(Instance::new(&place, options.latency, options.error_rate, arrivals));
        let lines = Lines::bind(place.address, instance.failures.subscribe())
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {}: {error}", place.name, place.address)))?;
        places.push(format!("{} {}", place.name, lines.address()));
        let app = instance::router(&instance).merge(control::router(&instance));
        serving.spawn(serve(lines, app));
    }
    // One line, so that a script can wait for it.
    say(&format!("mock_backends ready: {}", places.join(", ")));

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        Some(ended) = serving.join_next() => ended??,
    }
    say("mock_backends stopped");
    Ok(())
}

/// Unlike `println!`, survives that nobody reads any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn serve(lines: Lines, app: Router) -> io::Result<()> {
    axum::serve(lines, app.into_make_service_with_connect_info::<Line>()).await
}
