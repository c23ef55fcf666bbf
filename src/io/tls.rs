//! TLS towards relays: which roots are trusted, and the name a certificate must bear.
//!
//! The roots are built in (webpki-roots), so that a bare container works; a `ca_file` adds to them. Only the client side
//! exists: in front of the own relay stands the operator's proxy.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::contract::CloseReason;
use crate::limits::TLS_SESSIONS_MAX;

/// Why a `ca_file` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
    /// The file is not PEM from beginning to end.
    NotPem,
    /// The file is PEM, but holds no certificate.
    NoCertificate,
    /// The certificate with this number, counted from one, is not a CA certificate that can be trusted.
    BadCertificate(usize),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
            TlsError::NotPem => f.write_str("is not a PEM file"),
            TlsError::NoCertificate => f.write_str("holds no certificate"),
            TlsError::BadCertificate(n) => write!(f, "holds a certificate that cannot be used (number {n})"),
        }
    }
}

impl std::error::Error for TlsError {}

/// The configuration of every TLS connection: TLS 1.2 and 1.3 by ring, the built-in roots and those in `ca_file` (PEM).
///
/// # Errors
///
/// If `ca_file` is given and any of it is unusable.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let pem = fs::read(path).map_err(|e| TlsError::Unreadable(e.kind()))?;
        add_roots(&mut roots, &pem)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A relay that also speaks HTTP/2 must not be left to choose it: WebSocket is asked for in HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
    Ok(Arc::new(config))
}

fn add_roots(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), TlsError> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        count += 1;
        roots.add(certificate.map_err(|_| TlsError::NotPem)?).map_err(|_| TlsError::BadCertificate(count))?;
    }
    if count == 0 { Err(TlsError::NoCertificate) } else { Ok(()) }
}

/// A TLS connection about to begin. `host`: a name, or an address without brackets; the certificate must be for it.
///
/// # Errors
///
/// [`CloseReason::Tls`] if no certificate could be for `host`.
pub fn connection(config: &Arc<ClientConfig>, host: &str) -> Result<ClientConnection, CloseReason> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| CloseReason::Tls)?;
    ClientConnection::new(Arc::clone(config), name).map_err(|_| CloseReason::Tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots_from(pem: &str) -> Result<usize, TlsError> {
        let mut roots = RootCertStore::empty();
        add_roots(&mut roots, pem.as_bytes()).map(|()| roots.len())
    }

    fn ca_pem() -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_ca_file_may_hold_several_certificates_and_comments() {
        let pem = format!("our lab\n{}\nand the other\n{}", ca_pem(), ca_pem());
        assert_eq!(roots_from(&pem), Ok(2));
    }

    #[test]
    fn a_bad_ca_file_says_what_is_wrong() {
        assert_eq!(roots_from(""), Err(TlsError::NoCertificate));
        assert_eq!(roots_from("not a certificate"), Err(TlsError::NoCertificate));
        let pem = ca_pem();
        assert_eq!(roots_from(&pem[..pem.len() - 30]), Err(TlsError::NotPem));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(roots_from(&format!("{pem}{garbage}")), Err(TlsError::BadCertificate(2)));
        let missing = Path::new("/nonexistent/ca.pem");
        assert_eq!(client_config(Some(missing)).unwrap_err(), TlsError::Unreadable(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        let config = client_config(None).unwrap();
        for host in ["relay.example", "192.0.2.1", "2001:db8::1", "xn--bcher-kva.example"] {
            assert!(connection(&config, host).is_ok(), "{host}");
        }
        for host in ["", "[2001:db8::1]", "a b"] {
            assert_eq!(connection(&config, host).unwrap_err(), CloseReason::Tls, "{host}");
        }
    }
}
