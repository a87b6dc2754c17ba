//! Whom a service believes, and who it says it is: the authorities of its instances' certificates, and a certificate of its own.
//! The files are read at load and at every reload. Not here: the files' form (`pem`), and what a connection needs besides (`peer.rs`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::RootCertStore;

use crate::config::ServiceTls;
use crate::pem;

/// What the TLS of one service rests on.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// As Pingora takes them; the system's where there are none.
    pub authorities: Option<Arc<[WrappedX509]>>,
    /// What an instance is shown when it asks who connects.
    pub identity: Option<Arc<CertKey>>,
    /// The same for the same name, authorities and certificate.
    pub mark: u64,
}

impl Trust {
    /// Reads the files of `tls`.
    ///
    /// # Errors
    /// What is wrong with a file, with the part of the service it is about.
    pub fn load(tls: Option<&ServiceTls>) -> Result<Self, (String, String)> {
        let Some(tls) = tls else { return Ok(Self::default()) };
        let mut hasher = DefaultHasher::new();
        tls.sni.hash(&mut hasher);
        let place = |field: &str| format!("tls.{field}");
        let authorities = tls.ca.as_deref().map(|path| authorities(path, &mut hasher)).transpose();
        let authorities = authorities.map_err(|problem| (place("ca"), problem))?;
        let identity = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                let (certified, private) =
                    pem::identity(cert, key).map_err(|(field, problem)| (place(field), problem))?;
                let chain: Vec<Vec<u8>> = certified.cert.iter().map(|certificate| certificate.to_vec()).collect();
                chain.hash(&mut hasher);
                Some(Arc::new(CertKey::new(chain, private.secret_der().to_vec())))
            }
            _ => None,
        };
        Ok(Self { authorities, identity, mark: hasher.finish() })
    }
}

fn authorities(path: &Path, hasher: &mut DefaultHasher) -> Result<Arc<[WrappedX509]>, String> {
    let certificates = pem::certificates(path)?;
    // Pingora parses these when it connects, and panics on what is no certificate: so they are tried here.
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        let added = store.add(certificate.clone());
        added.map_err(|error| format!("{} holds a certificate that can't be used: {error}", path.display()))?;
        certificate.hash(hasher);
    }
    Ok(certificates.into_iter().map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509)).collect())
}
