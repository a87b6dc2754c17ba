//! PEM files: chains of certificates and private keys, read with errors that name the file.
//! Not here: what they are used for, by listeners (`runtime`) and towards instances (`upstream`).

use std::path::Path;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The certificates of a file, in its order; at least one.
///
/// # Errors
/// What is wrong with the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = path.display();
    let found = CertificateDer::pem_file_iter(path)
        .map_err(|error| format!("can't read {file}: {error}"))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{file} is not PEM: {error}"))?;
    if found.is_empty() { Err(format!("{file} holds no certificate")) } else { Ok(found) }
}

/// A certificate chain, leaf first, and its private key; they belong together.
///
/// # Errors
/// What is wrong, with the field it is about: `cert` or `key`.
pub fn identity(cert: &Path, key: &Path) -> Result<(CertifiedKey, PrivateKeyDer<'static>), (&'static str, String)> {
    let chain = certificates(cert).map_err(|problem| ("cert", problem))?;
    let file = key.display();
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| ("key", format!("can't read a private key from {file}: {error}")))?;
    let signing =
        any_supported_type(&private).map_err(|error| ("key", format!("the key in {file} can't be used: {error}")))?;
    let certified = CertifiedKey::new(chain, signing);
    certified
        .keys_match()
        .map_err(|_| ("key", format!("the key in {file} does not belong to the certificate in {}", cert.display())))?;
    Ok((certified, private))
}
