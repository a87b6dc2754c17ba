//! Why the store gave no answer: a kind for metrics, and a sentence for the log that holds no password.
//! The client library's errors end here.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// There was no answer in time. Why is in the log and in metrics: the request's path only needs to know that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// `kind` of `tollgate_limit_store_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No answer within `limits.timeout`.
    Timeout,
    /// No connection, or it was lost.
    Connection,
    /// User, password or rights.
    Access,
    /// An answer that is an error, or makes no sense.
    Answer,
    /// Too many requests wait already.
    Busy,
}

/// Characters of the server's own words that are repeated.
const DETAIL_MAX: usize = 200;

/// A failure.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub kind: FaultKind,
    pub text: String,
    /// Where the keys of this deployment are, when they are on another node of a cluster.
    pub moved_to: Option<String>,
}

impl FaultKind {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Timeout, Self::Connection, Self::Access, Self::Answer, Self::Busy];

    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Access => "access",
            Self::Answer => "answer",
            Self::Busy => "busy",
        }
    }
}

impl Fault {
    pub fn timeout(after: Duration) -> Self {
        Self { kind: FaultKind::Timeout, text: format!("no answer within {after:?}"), moved_to: None }
    }

    pub fn answer(text: &str) -> Self {
        Self { kind: FaultKind::Answer, text: text.to_owned(), moved_to: None }
    }

    /// What `error` means for whoever reads the log.
    pub fn of(error: &RedisError) -> Self {
        let detail: String = error.detail().unwrap_or_default().chars().take(DETAIL_MAX).collect();
        let code = error.code().unwrap_or_default();
        let said = format!("{code} {detail}");
        let (kind, text) = match error.kind() {
            ErrorKind::AuthenticationFailed => (FaultKind::Access, refused(&said)),
            _ if matches!(code, "WRONGPASS" | "NOAUTH") => (FaultKind::Access, refused(&said)),
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                (FaultKind::Access, format!("the user of the URL lacks rights: {said}"))
            }
            ErrorKind::Io => (FaultKind::Connection, error.to_string().chars().take(DETAIL_MAX).collect()),
            _ if code == "OOM" => (FaultKind::Answer, format!("the server is out of memory: {said}")),
            _ => (FaultKind::Answer, format!("{}: {said}", error.category())),
        };
        let moved_to = error.redirect_node().map(|(address, _)| address.to_owned());
        Self { kind, text, moved_to }
    }
}

fn refused(said: &str) -> String {
    format!("it refuses the user or the password of the URL ({})", said.trim())
}
