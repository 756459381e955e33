//! A proxy that speaks TLS before a gateway or another server, with a certificate of an authority of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The proxy; it runs as long as the test.
pub struct TlsProxy {
    /// Where it listens.
    pub port: u16,
    /// The certificate of its authority, in PEM form.
    pub authority: String,
}

impl TlsProxy {
    /// A proxy before a server, known by this name.
    pub async fn start(server: SocketAddr, name: &str) -> Self {
        let issuer = issuer(name);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new([name.to_owned()]).and_then(|params| params.signed_by(&key, &issuer));
        let certificate = certificate.expect("a certificate").der().clone();
        Self::with(server, certificate, &key, issuer.pem()).await
    }

    /// The same with the certificate of its authority in the place of one that it has issued.
    pub async fn of_its_authority(server: SocketAddr, name: &str) -> Self {
        let issuer = issuer(name);
        Self::with(server, issuer.der().clone(), issuer.key(), issuer.pem()).await
    }

    async fn with(server: SocketAddr, certificate: CertificateDer<'static>, key: &KeyPair, authority: String) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("the key is of the certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(acceptor.clone(), client, server));
            }
        });
        Self { port, authority }
    }
}

/// An authority of its own for this name.
fn issuer(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, format!("the authority of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// Carries bytes until one of both sides ends.
async fn carry(acceptor: TlsAcceptor, client: TcpStream, gateway: SocketAddr) {
    let Ok(mut client) = acceptor.accept(client).await else { return };
    let Ok(mut gateway) = TcpStream::connect(gateway).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
}
