//! The way to a gateway, through TLS where the URL says so.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::either::Either;

use super::End;
use crate::authority::{Authority, untrusted};

/// An open socket.
pub(super) type Socket = WebSocketStream<Either<TcpStream, TlsStream<TcpStream>>>;

/// Where a gateway is.
pub(super) struct Dial {
    /// The handshake.
    request: Request,
    host: String,
    port: u16,
    /// `None` without TLS.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dial {
    /// Reads a URL, and the certificates of an authority that is trusted besides the public ones. Errors: one line.
    pub(super) fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let bad = || "the URL must be ws://HOST:PORT/rpc or wss://HOST/rpc".to_owned();
        let authority = ca_file.map(|path| Authority::read("--ca-file", path)).transpose()?;
        let url = url.strip_prefix("http").map_or_else(|| url.to_owned(), |rest| format!("ws{rest}"));
        let request = url.into_client_request().map_err(|_| bad())?;
        let (Some(scheme), Some(host)) = (request.uri().scheme_str(), request.uri().host()) else { return Err(bad()) };
        let host = host.trim_matches(['[', ']']).to_owned();
        let (default_port, tls) = match scheme {
            "ws" => (80, None),
            "wss" => (443, Some((connector(authority)?, ServerName::try_from(host.clone()).map_err(|_| bad())?))),
            _ => return Err(bad()),
        };
        let port = request.uri().port_u16().unwrap_or(default_port);
        Ok(Self { request, host, port, tls })
    }

    /// Connects.
    pub(super) async fn open(&self) -> Result<Socket, End> {
        let lost = |error| End::Lost(format!("cannot reach {}:{}: {error}", self.host, self.port), None);
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(lost)?;
        let stream = match &self.tls {
            None => Either::Left(stream),
            Some((tls, name)) => match tls.connect(name.clone(), stream).await {
                Ok(stream) => Either::Right(stream),
                Err(error) => return Err(refusal(&error).map_or_else(|| lost(error), End::Refused)),
            },
        };
        Ok(client_async(self.request.clone(), stream).await?.0)
    }
}

fn connector(authority: Option<Authority>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in authority.map(|authority| authority.certificates).unwrap_or_default() {
        roots.add(certificate).map_err(|error| format!("--ca-file: {error}"))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

/// Why another attempt at TLS would fare no better; `None` where it may.
fn refusal(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidMessage(_) => {
            Some("what answers does not speak TLS; without it the URL is ws://".to_owned())
        }
        rustls::Error::InvalidCertificate(error) => {
            Some(format!("the gateway's certificate {}", untrusted(error, "--ca-file")))
        }
        _ => None,
    }
}
