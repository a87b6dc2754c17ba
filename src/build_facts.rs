//! What this binary was built from, for `--version` and metrics.
//! Facts that the build did not give are `unknown`, never an error: a build needs neither git nor a script.

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, where the build named one in `TOLLGATE_REVISION`.
pub const REVISION: &str = match option_env!("TOLLGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The compiler, where the build named one in `TOLLGATE_RUST`.
pub const RUST: &str = match option_env!("TOLLGATE_RUST") {
    Some(rust) => rust,
    None => "unknown",
};
