//! Keys: who a credential belongs to, and how a new one is made.
//! The gateway keeps only the SHA-256 of a key, in an immutable table that is replaced whole (`table.rs`).
//! Names of keys and consumers are interned (`names.rs`), so that counting by them costs four bytes.
//! Not here: where in a request a key is looked for (`policy/auth.rs`).

mod names;
mod new_key;
mod table;

pub use names::{NameId, name_id, name_of};
pub use new_key::{NewKey, looks_like_key};
pub use table::{KEY_BYTES_MAX, KeyEntry, KeyTable, PlanOfKey, digest_of};
