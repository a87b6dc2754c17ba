//! Bare Pingora as a contender: this very program, run as a minimal proxy (`bare.rs`), so the build flags are the same.
//! It has no keys, limits, cache or log; in those jobs it says what proxying, or refusing, costs at least.

use std::io;
use std::process::Command;

use crate::contender::{Contender, Place, Prepared, Setup};
use crate::machine::pingora_version;

pub struct Bare {
    /// Also a request id and forwarded headers.
    pub dressed: bool,
}

impl Contender for Bare {
    fn name(&self) -> &'static str {
        if self.dressed { super::BARE_DRESSED } else { super::BARE }
    }

    fn version(&self) -> io::Result<String> {
        let what = if self.dressed { ", with a request id and forwarded headers" } else { "" };
        Ok(format!("Pingora {}, a minimal proxy of loadtest {}{what}", pingora_version(), env!("CARGO_PKG_VERSION")))
    }

    fn prepare(&self, setup: Setup, place: &Place) -> io::Result<Prepared> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", "--listen", &place.listen.to_string(), "--upstream", &place.upstream.to_string()]);
        if self.dressed {
            command.arg("--dressed");
        }
        match setup {
            Setup::Plain => {}
            Setup::Tls => {
                command.arg("--cert").arg(&place.certificate).arg("--cert-key").arg(&place.certificate_key);
            }
            _ => return Ok(Prepared::CanNot("a proxy without policies")),
        }
        Ok(Prepared::Command(command))
    }

    fn is_reference(&self) -> bool {
        true
    }
}
