//! What reached an instance, in order: when each request came, what it asked for, and who it says it is.
//! Told before anything can fail, so a request that got no answer is there too. The last 10,000, control requests left out;
//! or all of them, in a file that outlives the process however that ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use serde::Serialize;

/// Requests that are remembered.
const ARRIVALS_MAX: usize = 10_000;

/// Bytes of a path or an id that are remembered.
const TEXT_BYTES_MAX: usize = 256;

/// Headers that name a request; the first that is there does.
const IDS: [&str; 3] = ["x-id", "idempotency-key", "x-request-id"];

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Arrival {
    /// When its header was read, milliseconds since 1970.
    pub at_ms: f64,
    /// What it wants done.
    pub method: String,
    /// To what.
    pub path: String,
    /// Its `X-Id`, else its `Idempotency-Key`, else its `X-Request-Id`.
    pub id: Option<String>,
}

/// The last requests of an instance.
#[derive(Default)]
pub struct Arrivals {
    last: Mutex<VecDeque<Arrival>>,
    /// Every one, a line of JSON each.
    file: Option<Arc<File>>,
}

/// The file where arrivals are written, behind what it holds already.
///
/// # Errors
/// Why it can't be written.
pub fn open(path: &Path) -> io::Result<Arc<File>> {
    let opened = File::options().create(true).append(true).open(path);
    opened.map(Arc::new).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

impl Arrivals {
    /// Arrivals that are written to a file, too.
    pub fn into_file(file: Option<&Arc<File>>) -> Self {
        Self { file: file.cloned(), ..Self::default() }
    }

    /// Remembers a request.
    pub fn note(&self, request: &Request) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let short = |text: &str| text.chars().take(TEXT_BYTES_MAX).collect();
        let id = IDS.iter().find_map(|name| request.headers().get(*name)?.to_str().ok());
        let arrival = Arrival {
            at_ms: at.as_secs_f64() * 1_000.0,
            method: request.method().to_string(),
            path: short(request.uri().path()),
            id: id.map(short),
        };
        if let (Some(mut file), Ok(line)) = (self.file.as_deref(), serde_json::to_string(&arrival)) {
            // One call, so that lines of several instances don't mix.
            if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
                let _ = writeln!(io::stderr(), "the file of arrivals: {error}");
            }
        }
        let Ok(mut all) = self.last.lock() else { return };
        if all.len() == ARRIVALS_MAX {
            all.pop_front();
        }
        all.push_back(arrival);
    }

    /// All that are remembered, the oldest first.
    pub fn all(&self) -> Vec<Arrival> {
        self.last.lock().map(|all| all.iter().cloned().collect()).unwrap_or_default()
    }
}
