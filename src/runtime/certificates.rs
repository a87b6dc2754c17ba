//! Certificates at run time: read and checked at load, chosen by the name a client asks for (SNI).
//! The first certificate of a listener is the fallback. A reload brings new ones with everything else, or none.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Certificate;
use crate::pem;

/// The certificates of one listener.
#[derive(Debug)]
pub struct Certificates {
    /// By name in lower case; `*.example.com` as `.example.com`.
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    fallback: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads and checks every certificate of a listener; none where it has none.
    ///
    /// # Errors
    /// What is wrong, by the index of the certificate and the field.
    pub fn load(certificates: &[Certificate]) -> Result<Option<Self>, Vec<(String, String)>> {
        let mut by_name = HashMap::new();
        let mut fallback = None;
        let mut problems = Vec::new();
        for (index, certificate) in certificates.iter().enumerate() {
            match load(certificate) {
                Ok((key, names)) => {
                    for name in names {
                        by_name.entry(name).or_insert_with(|| Arc::clone(&key));
                    }
                    fallback.get_or_insert(key);
                }
                Err((field, problem)) => problems.push((format!("[{index}].{field}"), problem)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(fallback.map(|fallback| Self { by_name, fallback }))
    }

    /// The certificate for `name`: the exact one, then the wildcard one level up, then the first.
    pub fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let parent = name.find('.').map(|dot| &name[dot..]);
            self.by_name.get(name.as_str()).or_else(|| self.by_name.get(parent?))
        });
        Arc::clone(found.unwrap_or(&self.fallback))
    }
}

type Loaded = (Arc<CertifiedKey>, Vec<Box<str>>);

fn load(certificate: &Certificate) -> Result<Loaded, (&'static str, String)> {
    let (certified, _) = pem::identity(&certificate.cert, &certificate.key)?;
    let names =
        names(&certified.cert[0]).map_err(|problem| ("cert", format!("{}: {problem}", certificate.cert.display())))?;
    Ok((Arc::new(certified), names))
}

/// The names a certificate is for: its DNS subject alternative names (RFC 9525 section 6.3).
fn names(certificate: &CertificateDer<'static>) -> Result<Vec<Box<str>>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("is no certificate: {error}"))?;
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Ok(Vec::new()) };
    Ok(names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.trim_start_matches('*').to_ascii_lowercase().into()),
            _ => None,
        })
        .collect())
}
