//! TLS by rustls with its `ring` provider, which builds with a C compiler alone.
//!
//! ALPN offers `h2` and `http/1.1`; a client that asks for neither is refused by rustls, one that asks for nothing
//! is told apart by its first bytes, as on cleartext.

use crate::error::{ServerError, ServerErrorKind};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// A certificate chain and its key, checked to belong together.
#[derive(Clone)]
pub struct Tls(Arc<rustls::ServerConfig>);

impl Tls {
    /// Reads both from PEM files.
    ///
    /// # Errors
    /// [`ServerErrorKind::Tls`]; the message names the file.
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, ServerError> {
        Self::from_pem(&read(certificates)?, &read(key)?).map_err(|error| {
            let (certificates, key) = (certificates.display(), key.display());
            ServerError::caused_by(
                ServerErrorKind::Tls,
                format!("cannot serve TLS with the certificate {certificates} and the key {key}"),
                error,
            )
        })
    }

    /// Reads both from PEM text: a chain, the server's own certificate first, and a PKCS#8, PKCS#1 or SEC1 key.
    ///
    /// # Errors
    /// [`ServerErrorKind::Tls`].
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, ServerError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|error| failed("the certificate is no PEM file", error))?;
        if chain.is_empty() {
            return Err(ServerError::new(ServerErrorKind::Tls, "the certificate file holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| failed("the key file holds no private key in PEM", error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("no version of TLS can be spoken", error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| failed("the certificate and the key do not work together", error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

/// Says nothing about the key.
impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Tls")
    }
}

/// Certificates of authorities that are trusted beside the system's, as a company's own.
#[derive(Clone, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads them from PEM files.
    ///
    /// # Errors
    /// [`ServerErrorKind::Tls`]; the message names the file.
    pub fn load(files: &[PathBuf]) -> Result<Self, ServerError> {
        let mut all = Self::default();
        for file in files {
            let message = format!("cannot trust the certificates in {}", file.display());
            let read = read(file).and_then(|pem| Self::from_pem(&pem));
            all.0.extend(read.map_err(|error| failed(&message, error))?.0);
        }
        Ok(all)
    }

    /// Reads them from PEM text.
    ///
    /// # Errors
    /// [`ServerErrorKind::Tls`], also where one cannot vouch for anything.
    pub fn from_pem(certificates: &[u8]) -> Result<Self, ServerError> {
        let all: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|error| failed("this is no PEM file of certificates", error))?;
        if all.is_empty() {
            return Err(ServerError::new(ServerErrorKind::Tls, "the file holds no certificate"));
        }
        let mut probe = RootCertStore::empty();
        for certificate in &all {
            probe.add(certificate.clone()).map_err(|error| failed("a certificate cannot be used", error))?;
        }
        Ok(Self(all))
    }

    /// The certificates one by one.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        self.0.iter().cloned()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Authorities({})", self.0.len())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|error| failed(&format!("cannot read {}", path.display()), error))
}

fn failed(message: &str, error: impl std::error::Error + Send + Sync + 'static) -> ServerError {
    ServerError::caused_by(ServerErrorKind::Tls, message, error)
}
