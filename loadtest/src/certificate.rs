//! The certificate of the TLS job, made for this run, and the client that trusts it and nothing else.
//! Where its files are is told to contenders in `Place`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};

pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// Takes TLS 1.2 and 1.3, so that what a contender agrees to is its own doing.
    pub client: Arc<ClientConfig>,
}

impl Certificate {
    /// For `localhost` and 127.0.0.1, with a key on the curve P-256.
    pub fn make(folder: &Path) -> io::Result<Self> {
        let made =
            generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let (chain, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&chain, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        let mut trusted = RootCertStore::empty();
        trusted.add(made.cert.der().clone()).map_err(io::Error::other)?;
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self { chain, key, client: Arc::new(client) })
    }
}
