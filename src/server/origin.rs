//! Which web pages may speak to the gateway: an allowlist of origins, asked before anything else of a request.
//!
//! Browsers name the page's origin; other clients name none and are not meant. The list decides over WebSockets, where
//! browsers do not ask, and answers by CORS where they do (<https://fetch.spec.whatwg.org/#http-cors-protocol>). There are
//! no cookies, so no credentials are ever allowed along.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderValue, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, Method, Request, StatusCode};

use super::http::{HttpResponse, refusal, respond};
use crate::rpc::error::RpcError;
use crate::store::elastic::Url;

/// The origins that may speak to the gateway.
#[derive(Debug, Clone, Default)]
pub enum AllowedOrigins {
    /// The one that the gateway itself has for the page: the origin's host and port are the request's `Host`.
    #[default]
    Same,
    /// These and no other, as browsers write them.
    Listed(Vec<String>),
}

/// What is to become of a request.
pub enum Judged {
    /// No page asks, or an allowed one, whose origin the response must name: see [`allow`].
    Go(Option<HeaderValue>),
    /// This is the answer.
    Answer(HttpResponse),
}

impl AllowedOrigins {
    /// Judges a request by its `Origin`, and answers the preflights of allowed ones.
    pub fn judge<B>(&self, request: &Request<B>) -> Judged {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Judged::Go(None) };
        if origins.next().is_some() || !self.allows(origin, headers) {
            return Judged::Answer(foreign(request.uri().path()));
        }
        if request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return Judged::Answer(preflight(origin.clone()));
        }
        Judged::Go(Some(origin.clone()))
    }

    fn allows(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        match self {
            Self::Listed(listed) => listed.iter().any(|listed| listed == origin),
            // A proxy in front may speak TLS: we cannot know by which scheme the page came.
            Self::Same => match (origin.split_once("://"), headers.get(HOST)) {
                (Some(("http" | "https", authority)), Some(host)) => !authority.is_empty() && host == authority,
                _ => false,
            },
        }
    }
}

impl std::str::FromStr for AllowedOrigins {
    type Err = ();

    /// Origins such as `https://app.example.com` or `http://localhost:5173`, separated by commas.
    fn from_str(text: &str) -> Result<Self, ()> {
        let origin = |part: &str| {
            let url = Url::parse(part).map_err(drop)?;
            let origin = url.origin().ascii_serialization();
            let nothing_else = part.trim_end_matches('/').eq_ignore_ascii_case(&origin)
                || url.port_or_known_default().is_some_and(|port| part == format!("{origin}:{port}"));
            if matches!(url.scheme(), "http" | "https") && nothing_else { Ok(origin) } else { Err(()) }
        };
        text.split(',').map(|part| origin(part.trim())).collect::<Result<_, _>>().map(Self::Listed)
    }
}

/// Lets the page of an allowed origin read the response.
pub fn allow(response: &mut HttpResponse, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after, www-authenticate"));
    headers.insert(VARY, HeaderValue::from_static("origin"));
}

fn preflight(origin: HeaderValue) -> HttpResponse {
    let mut response = respond(StatusCode::NO_CONTENT, None, Body::empty());
    allow(&mut response, origin);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PATCH, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn foreign(path: &str) -> HttpResponse {
    let error = RpcError::InvalidRequest("This Origin is not one of DOORWARD_ALLOWED_ORIGINS.");
    refusal(path, StatusCode::FORBIDDEN, error)
}
