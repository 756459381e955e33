//! Which web pages may speak to the gateway: its own and those of an allowlist, asked before anything else of a request.
//!
//! Browsers name the page's origin; most other clients name none and are not meant. The list decides over WebSockets, where
//! browsers do not ask, and answers by CORS where they do (<https://fetch.spec.whatwg.org/#http-cors-protocol>). There are
//! no cookies, so no credentials are ever allowed along.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderValue, ORIGIN, VARY,
};
use axum::http::{HeaderMap, Method, Request, StatusCode};

use super::http::{HttpResponse, refusal, respond};
use crate::rpc::error::RpcError;
use crate::store::elastic::Url;

/// How much of a refused origin is told, in characters.
const SHOWN_CHARS: usize = 100;

/// The origins that may speak to the gateway besides its own, as browsers write them.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins(Vec<String>);

/// What is to become of a request.
pub struct Judged {
    /// The origin that may read the response: see [`declare`].
    pub allowed: Option<HeaderValue>,
    /// The response, where the request goes no further.
    pub answer: Option<HttpResponse>,
}

impl AllowedOrigins {
    /// Judges a request by its `Origin`, and answers the preflights of allowed ones.
    pub fn judge<B>(&self, request: &Request<B>) -> Judged {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Judged { allowed: None, answer: None } };
        if origins.next().is_some() || !self.allows(origin, headers) {
            return Judged { allowed: None, answer: Some(self.refuse(request.uri().path(), origin)) };
        }
        let asks = request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Judged { allowed: Some(origin.clone()), answer: asks.then(|| preflight(headers)) }
    }

    fn allows(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        host.is_some_and(|host| is_own(origin, host)) || self.0.iter().any(|listed| listed == origin)
    }

    fn refuse(&self, path: &str, origin: &HeaderValue) -> HttpResponse {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let shown: String = origin.chars().take(SHOWN_CHARS).collect();
        let more = if shown.len() < origin.len() { "…" } else { "" };
        let error = RpcError::OriginRefused { origin: format!("{shown:?}{more}"), listed: !self.0.is_empty() };
        refusal(path, StatusCode::FORBIDDEN, error)
    }
}

/// Whether a page came from where its request went. Of the scheme only the default port is known: a proxy in front may
/// speak TLS.
fn is_own(origin: &str, host: &str) -> bool {
    let (default, authority) = match origin.split_once("://") {
        Some(("https", authority)) => ("443", authority),
        Some(("http", authority)) => ("80", authority),
        _ => return false,
    };
    // The name without the dot of a full one, and the port unless it is the default.
    let parts = |authority| {
        let (name, port) = match str::rsplit_once(authority, ':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
            _ => (authority, ""),
        };
        (name.strip_suffix('.').unwrap_or(name), if port == default { "" } else { port })
    };
    let ((name, port), (own_name, own_port)) = (parts(authority), parts(host));
    !name.is_empty() && name.eq_ignore_ascii_case(own_name) && port == own_port
}

impl std::str::FromStr for AllowedOrigins {
    type Err = String;

    /// Origins such as `https://app.example.com`, `http://localhost:5173` or `capacitor://localhost`, separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| parse(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

/// One origin, as browsers write it and no other way: they are compared character by character.
///
/// Errors: why no page can ever have it.
fn parse(text: &str) -> Result<String, String> {
    let example = "an origin is a scheme, a name and perhaps a port, such as https://app.example.com";
    let never = |why: &str| Err(format!("{text:?} can never match: {why}"));
    let Ok(url) = Url::parse(text) else { return never(example) };
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return never(example) };
    if host.contains('*') {
        return never("every name is listed by itself, without *");
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    match (url.scheme(), format!("{}://{host}{port}", url.scheme())) {
        ("ws" | "wss" | "ftp" | "file", _) => never("pages have the scheme http or https, or that of an app"),
        (_, origin) if origin == text => Ok(origin),
        (_, origin) => never(&format!("browsers write {origin:?}")),
    }
}

/// Says on any response whose page may read it, and that this depends on the page.
pub fn declare(response: &mut HttpResponse, allowed: Option<HeaderValue>) {
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after, www-authenticate"));
    }
}

/// Lets an allowed page send what it asks for: without cookies no header takes anything from the user.
fn preflight(asked: &HeaderMap) -> HttpResponse {
    let mut response = respond(StatusCode::NO_CONTENT, None, Body::empty());
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PATCH, DELETE"));
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
