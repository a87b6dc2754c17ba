//! `tollgate --version`: what this binary was built from.
//! Not here: how the facts are found (`build_facts`).

use crate::build_facts;

/// A line for each fact; the first is the name and the version.
pub(super) fn text() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!(
        "tollgate {}\ncommit {}\ntarget {}-{}\nprofile {profile}\nrustc {}\n",
        build_facts::VERSION,
        build_facts::REVISION,
        std::env::consts::ARCH,
        std::env::consts::OS,
        build_facts::RUST,
    )
}
