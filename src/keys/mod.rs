//! Keys: who a credential belongs to, how a new one is made, and what becomes of it.
//! The gateway keeps only the SHA-256 of a key, in an immutable table (`table.rs`) that is replaced whole (`live.rs`).
//! Names of keys and consumers are interned (`names.rs`), so that counting by them costs four bytes.
//! Not here: where in a request a key is looked for (`policy/auth.rs`).

pub mod life;
mod live;
mod merge;
mod names;
mod new_key;
mod poll;
pub mod scan;
mod strength;
mod table;

pub use live::{LiveKeys, Stored};
pub use names::{NameId, name_id, name_of};
pub use new_key::{NewKey, looks_like_key};
pub use poll::{KeyPoll, Status};
pub use table::{ConsumerFacts, KEY_BYTES_MAX, KeyEntry, KeyTable, PlanOfKey, digest_of};
