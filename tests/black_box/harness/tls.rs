//! Certificates made for one test, and clients that believe nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::Client;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Folder, seconds};

/// A certificate for one name, and its key.
pub struct Authority {
    name: String,
    pem: String,
    der: CertificateDer<'static>,
    key: String,
}

impl Authority {
    /// A new certificate for this name.
    pub fn of(name: &str) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Self { name: name.into(), pem: cert.pem(), der: cert.der().clone(), key: signing_key.serialize_pem() }
    }

    /// Writes `NAME.pem` and `NAME.key` into the folder.
    pub fn write(&self, folder: &Folder) {
        folder.file(&format!("{}.pem", self.name), &self.pem);
        folder.file(&format!("{}.key", self.name), &self.key);
    }

    /// Its entry in `listen[].tls`.
    pub fn entry(&self) -> String {
        format!("{{cert: {0}.pem, key: {0}.key}}", self.name)
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }

    /// A client that reaches the gateway under the certificate's name, and believes this certificate.
    pub fn client(&self, gateway: SocketAddr) -> Client {
        Client::builder()
            .no_proxy()
            .timeout(seconds(20))
            .redirect(reqwest::redirect::Policy::none())
            .tls_built_in_root_certs(false)
            .add_root_certificate(reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("a certificate"))
            .resolve(&self.name, gateway)
            .build()
            .expect("a client")
    }

    /// A TLS connection with this certificate's name as SNI and these protocols offered.
    pub async fn connect(&self, gateway: SocketAddr, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        connect(gateway, &self.name, &[self], protocols).await
    }
}

/// A TLS connection with this SNI that believes these certificates.
pub async fn connect(
    gateway: SocketAddr,
    sni: &str,
    believed: &[&Authority],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for authority in believed {
        roots.add(authority.der.clone()).expect("a certificate");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(gateway).await?;
    let name = ServerName::try_from(sni.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate a server showed.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}
