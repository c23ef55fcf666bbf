//! A certificate authority of the test's own, and a proxy that ends TLS in front of a plain port.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// How a certificate is to be wrong, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    Expired,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("ring makes keys");
        let mut params = CertificateParams::new(Vec::new()).expect("no names to be wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate of our own");
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Authority { issuer: Issuer::new(params, key), certificate, pem }
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The authority's certificate, as `ca_file` wants it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a server called `name` (a host name or an IP address) needs.
    pub fn server_config(&self, name: &str, validity: Validity) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("ring makes keys");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a valid name");
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the key fits the certificate");
        Arc::new(config)
    }
}

/// Listens with TLS and hands the plain bytes to another port. One thread per connection; all end when it is dropped.
pub struct TlsProxy {
    pub address: SocketAddr,
    shared: Arc<ProxyShared>,
}

#[derive(Default)]
struct ProxyShared {
    stopped: AtomicBool,
    handshakes: AtomicUsize,
    failures: AtomicUsize,
}

impl TlsProxy {
    /// Serves `config` in front of `target`.
    pub fn start(config: Arc<ServerConfig>, target: SocketAddr) -> TlsProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(ProxyShared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), config, shared) = (stream, Arc::clone(&config), Arc::clone(&of_thread)) else {
                    continue;
                };
                std::thread::spawn(move || serve(stream, config, target, &shared));
            }
        });
        TlsProxy { address, shared }
    }

    /// TLS handshakes that ended well.
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::SeqCst)
    }

    /// TLS handshakes that failed: the client refused the certificate.
    pub fn failures(&self) -> usize {
        self.shared.failures.load(Ordering::SeqCst)
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// How long one direction is waited on before the other gets its turn.
const TURN: Duration = Duration::from_millis(2);

fn serve(client: TcpStream, config: Arc<ServerConfig>, target: SocketAddr, shared: &ProxyShared) {
    let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
    let Ok(connection) = ServerConnection::new(config) else { return };
    let mut tls = StreamOwned::new(connection, client);
    while tls.conn.is_handshaking() {
        if tls.conn.complete_io(&mut tls.sock).is_err() {
            shared.failures.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
    // In TLS 1.3 a client that refuses the certificate says so after our side of the handshake has ended.
    shared.handshakes.fetch_add(1, Ordering::SeqCst);
    let Ok(mut plain) = TcpStream::connect(target) else { return };
    let _ = tls.sock.set_read_timeout(Some(TURN));
    let _ = plain.set_read_timeout(Some(TURN));
    let mut buffer = vec![0; 64 << 10];
    while !shared.stopped.load(Ordering::SeqCst) {
        match pump(&mut tls, &mut plain, &mut buffer) {
            Ok(true) => {}
            Ok(false) => break,
            Err(()) => {
                shared.failures.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        match pump(&mut plain, &mut tls, &mut buffer) {
            Ok(true) => {}
            Ok(false) | Err(()) => break,
        }
    }
    tls.conn.send_close_notify();
    let _ = tls.flush();
    let _ = tls.sock.shutdown(Shutdown::Both);
    let _ = plain.shutdown(Shutdown::Both);
}

/// Moves what is there. `Ok(false)` at the end of the stream, `Err` if it broke.
fn pump(from: &mut impl Read, to: &mut impl Write, buffer: &mut [u8]) -> Result<bool, ()> {
    match from.read(buffer) {
        Ok(0) => Ok(false),
        Ok(n) => to.write_all(&buffer[..n]).and_then(|()| to.flush()).map(|()| true).map_err(|_| ()),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(false),
        Err(_) => Err(()),
    }
}
