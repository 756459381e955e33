//! What an answer means, and what a missing one does.

use std::error::Error;

use bytes::Bytes;
use serde::Deserialize;
use tokio_rustls::rustls::{self, CertificateError};

use super::Answer;
use crate::authority::untrusted;
use crate::store::StoreError;
use crate::store::elastic::CA_FILE;

/// Whether a request that failed may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::elastic) enum Effect {
    /// It has not and will not.
    None,
    /// It may have, or may yet.
    Possible,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::elastic) enum Kind {
    /// The node cannot be reached, or the connection broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The circuit breaker is open: nothing was sent. The text tells why it is.
    CircuitOpen,
    /// Too much work, or a shard that is not there at the moment.
    Overloaded,
    /// The index takes no writes while `doorward migrate` finishes.
    Held,
    /// It takes no writes until somebody acts: the disk is full, or it was made read-only.
    ReadOnly,
    /// The credentials are missing, wrong, or do not suffice.
    Unauthorised,
    /// What answered is not Elasticsearch.
    Foreign,
    /// Its certificate is not trusted, or it does not speak TLS.
    Tls,
    /// An index is missing, or closed, until somebody acts.
    Gone,
    /// It is Elasticsearch, and says what this program does not expect: to the same request it will again.
    Unexpected,
}

impl Kind {
    /// Whether the same request may succeed shortly.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Connection | Self::Timeout | Self::Overloaded | Self::Foreign)
    }

    /// Whether another node may do better.
    pub(super) fn is_of_the_node(self) -> bool {
        matches!(self, Self::Connection | Self::Timeout | Self::Foreign | Self::Tls)
    }
}

/// A request without a useful answer.
#[derive(Debug)]
pub(in crate::store::elastic) struct Failure {
    /// Why.
    pub(in crate::store::elastic) kind: Kind,
    /// Whether it may have taken effect.
    pub(in crate::store::elastic) effect: Effect,
    /// For the log; never holds credentials.
    pub(in crate::store::elastic) text: String,
}

impl Failure {
    fn new(kind: Kind, effect: Effect, text: impl Into<String>) -> Self {
        Self { kind, effect, text: text.into() }
    }

    /// A read that may succeed shortly.
    pub(in crate::store::elastic) fn passing(text: String) -> Self {
        Self::new(Kind::Overloaded, Effect::None, text)
    }

    /// A read that fails the next time, too.
    pub(super) fn unexpected(text: String) -> Self {
        Self::new(Kind::Unexpected, Effect::None, text)
    }

    /// What needs an index that is not there.
    pub(super) fn gone(text: String) -> Self {
        Self::new(Kind::Gone, Effect::None, text)
    }

    pub(super) fn timeout(effect: Effect) -> Self {
        Self::new(Kind::Timeout, effect, "Elasticsearch did not answer in time")
    }

    pub(super) fn circuit_open(cause: &str) -> Self {
        Self::new(Kind::CircuitOpen, Effect::None, format!("{cause}; not asked again yet"))
    }

    pub(super) fn unreachable(node: &str, cause: &str) -> Self {
        Self::new(Kind::Connection, Effect::None, format!("cannot connect to {node}: {cause}"))
    }
}

/// The failure of an operation that changes nothing, or of one that certainly changed nothing.
impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            Kind::Timeout => Self::Timeout,
            Kind::Unexpected => Self::Unexpected(failure.text),
            _ => Self::Unavailable(failure.text),
        }
    }
}

/// What the transport says when there is no answer. Of a URL nothing is told.
pub(super) fn failure_of(error: &elasticsearch::Error) -> Failure {
    if error.is_timeout() {
        return Failure::timeout(Effect::Possible);
    }
    let mut cause: &dyn Error = error;
    let (mut kind, mut certificate) = (Kind::Connection, None);
    while let Some(source) = cause.source() {
        cause = source;
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            kind = Kind::Foreign;
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>().filter(|io| is_invalid_data(io)) {
            kind = Kind::Tls;
            certificate = certificate.or(certificate_error(io));
        }
    }
    match (kind, certificate) {
        (Kind::Foreign, _) => Failure::new(kind, Effect::Possible, "what answers does not speak HTTP"),
        (Kind::Tls, Some(certificate)) => {
            Failure::new(kind, Effect::None, format!("the certificate {}", untrusted(certificate, CA_FILE)))
        }
        (Kind::Tls, None) => Failure::new(kind, Effect::None, format!("the TLS handshake failed: {cause}")),
        _ => Failure::new(kind, Effect::Possible, format!("the connection broke: {cause}")),
    }
}

/// Whether bytes came that cannot be: TLS says so. An error may be wrapped in another, which is no source of it.
fn is_invalid_data(error: &std::io::Error) -> bool {
    let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<std::io::Error>());
    error.kind() == std::io::ErrorKind::InvalidData || wrapped.is_some_and(is_invalid_data)
}

/// What TLS finds wrong with a certificate.
fn certificate_error(error: &std::io::Error) -> Option<&CertificateError> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => certificate_error(inner.downcast_ref::<std::io::Error>()?),
    }
}

/// The parts of an error's body that decide.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    error: Cause,
    status: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    root_cause: Vec<Cause>,
}

/// The type of the error of a body; empty when there is none.
pub(super) fn error_type(body: &Bytes) -> String {
    serde_json::from_slice::<Body>(body).unwrap_or_default().error.kind
}

/// Parts an answer that tells about the request from a failure to deal with it.
///
/// `names_itself` is whether a header says that Elasticsearch has answered. Some of its errors lack it (a write to a
/// blocked index, at least), but repeat their status in the body.
pub(super) fn judge(status: u16, names_itself: bool, body: Bytes) -> Result<Answer, Failure> {
    if status == 401 || status == 407 {
        return Err(Failure::new(Kind::Unauthorised, Effect::None, "Elasticsearch refuses our credentials (401)"));
    }
    let error = || serde_json::from_slice::<Body>(&body).unwrap_or_default();
    if !names_itself && error().status != status {
        let text = format!("what answered {status} is not Elasticsearch");
        // A proxy's way to say that there is too much work; it may have passed the request on.
        let kind = if matches!(status, 429 | 502 | 503 | 504) { Kind::Overloaded } else { Kind::Foreign };
        return Err(Failure::new(kind, Effect::Possible, text));
    }
    if matches!(status, 200..300 | 400 | 404 | 409) {
        return Ok(Answer { status, body, earlier: Effect::None });
    }
    let error = error().error;
    let cause = error.root_cause.first().unwrap_or(&error);
    let text = format!("Elasticsearch answered {status} {}: {}", error.kind, cause.reason);
    let (kind, effect) = match (status, error.kind.as_str()) {
        (_, "cluster_block_exception") => block(&cause.reason),
        (403, _) => (Kind::Unauthorised, Effect::None),
        // A full queue, or a circuit breaker for memory: refused before anything was done.
        (429, _) => (Kind::Overloaded, Effect::None),
        _ => (Kind::Overloaded, Effect::Possible),
    };
    Err(Failure::new(kind, effect, text))
}

/// How many shards have had their part in an answer. Source: `_shards` of Elasticsearch's Search, Count and Refresh APIs.
#[derive(Debug, Default, Deserialize)]
pub(in crate::store::elastic) struct Shards {
    failed: usize,
}

impl Shards {
    /// An answer in which shards are missing is none: what they hold would look as if it were not there.
    pub(in crate::store::elastic) fn all_there(&self) -> Result<(), Failure> {
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::passing(format!("{failed} shards of the index gave no answer in time"))),
        }
    }
}

/// A block has the form `index [name] blocked by: [FORBIDDEN/8/index write (api)];`, with the number of the block.
/// Source: `IndexMetadata`, `IndicesService` and `NoMasterBlockService` of Elasticsearch.
fn block(reason: &str) -> (Kind, Effect) {
    let is = |number: &str| reason.contains(&format!("/{number}/"));
    match () {
        () if is("8") => (Kind::Held, Effect::None),
        // 5 read-only, 12 read-only by the flood stage of the disk watermarks.
        () if is("5") || is("12") => (Kind::ReadOnly, Effect::None),
        // 1 not recovered yet, 2 and 4 no master, and what may yet come: of the cluster, and passing. The node that answers may
        // have come to it when it tried again what a primary had done and spread before it died, the master with it.
        () => (Kind::Overloaded, Effect::Possible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, body: &str) -> (Kind, Effect) {
        // A 403 never names itself.
        let names_itself = status != 403 && body.starts_with('{');
        let failure = judge(status, names_itself, Bytes::copy_from_slice(body.as_bytes())).unwrap_err();
        (failure.kind, failure.effect)
    }

    /// A failure that Elasticsearch tells of itself.
    fn failure_by(status: u16, kind: &str, reason: &str) -> (Kind, Effect) {
        let cause = serde_json::json!({"type": kind, "reason": reason});
        let error = serde_json::json!({"type": kind, "reason": reason, "root_cause": [cause]});
        failure(status, &serde_json::json!({"error": error, "status": status}).to_string())
    }

    #[test]
    fn r07_the_meanings_of_429_are_told_apart() {
        let full = failure_by(429, "es_rejected_execution_exception", "rejected execution of primary operation");
        assert_eq!(full, (Kind::Overloaded, Effect::None));
        let memory = failure_by(429, "circuit_breaking_exception", "[parent] Data too large");
        assert_eq!(memory, (Kind::Overloaded, Effect::None));
        let flood = failure_by(
            429,
            "cluster_block_exception",
            "index [users] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has \
             read-only-allow-delete block];",
        );
        assert_eq!(flood, (Kind::ReadOnly, Effect::None));
        // A proxy's own, which may have passed the request on.
        assert_eq!(failure(429, "slow down"), (Kind::Overloaded, Effect::Possible));
    }

    #[test]
    fn a_block_is_a_migration_a_full_disk_or_a_cluster_without_a_master() {
        for (status, block, expected) in [
            (403, "index [u] blocked by: [FORBIDDEN/8/index write (api)];", (Kind::Held, Effect::None)),
            (403, "index [u] blocked by: [FORBIDDEN/5/index read-only (api)];", (Kind::ReadOnly, Effect::None)),
            (503, "blocked by: [SERVICE_UNAVAILABLE/2/no master];", (Kind::Overloaded, Effect::Possible)),
        ] {
            assert_eq!(failure_by(status, "cluster_block_exception", block), expected);
        }
    }

    #[test]
    fn what_is_not_elasticsearch_is_never_read_as_an_answer() {
        assert_eq!(failure(404, "<html>not here</html>"), (Kind::Foreign, Effect::Possible));
        assert_eq!(failure(200, ""), (Kind::Foreign, Effect::Possible));
        assert_eq!(failure(503, "<html>"), (Kind::Overloaded, Effect::Possible));
        assert_eq!(failure(403, "<html>forbidden</html>"), (Kind::Foreign, Effect::Possible));
        assert_eq!(failure(401, ""), (Kind::Unauthorised, Effect::None));
        assert_eq!(failure_by(403, "security_exception", "unauthorized"), (Kind::Unauthorised, Effect::None));
        assert_eq!(failure(500, "{}"), (Kind::Overloaded, Effect::Possible));
        assert_eq!(failure(403, "{}"), (Kind::Foreign, Effect::Possible));
        assert_eq!(judge(404, true, Bytes::from_static(b"{\"found\":false}")).unwrap().status, 404);
    }
}
