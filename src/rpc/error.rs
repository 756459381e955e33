//! Everything a client can be told went wrong, with its code.
//!
//! Messages say what the caller can change; the cause is logged here, once, where a failure becomes a reply.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jsonrpsee::types::ErrorObjectOwned;
use serde::Serialize;
use serde_json::json;

use crate::auth::hashing::Busy;
use crate::auth::throttle::TooMany;
use crate::auth::token::TokenError;
use crate::store::{StoreError, Unique};
use crate::users::user::Refusal;

/// One parameter that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where in the params, e.g. `patch.display_name` or `filter.or[1].role.eq`.
    pub path: String,
    /// A stable word, e.g. `unknown_member` or `length`.
    pub rule: String,
    /// What to change.
    pub message: String,
}

impl FieldError {
    /// The refusal of a value at `path`.
    pub fn new(path: impl Into<String>, refusal: Refusal) -> Self {
        let path = path.into() + &refusal.within;
        Self { path, rule: refusal.rule.to_owned(), message: refusal.message }
    }
}

/// A failed call, as the client is told. A released code never changes its meaning.
#[derive(Debug, Clone)]
pub enum RpcError {
    /// The text is not JSON, or nested too deeply.
    Parse(&'static str),
    /// JSON, but not a request.
    InvalidRequest(&'static str),
    /// A web page that may not speak to the gateway.
    OriginRefused {
        /// Its origin in quotation marks, with everything escaped that is not text.
        origin: String,
        /// Whether there is a list of others that may.
        listed: bool,
    },
    /// No such method.
    UnknownMethod,
    /// The method exists, but only on a WebSocket.
    WebsocketOnly,
    /// Parameters that break a rule.
    InvalidParams(Vec<FieldError>),
    /// Our failure; the log has the cause under the request id.
    Internal,
    /// A message above the limit.
    RequestTooLarge,
    /// A reply above the limit.
    ResponseTooLarge,
    /// More calls in a batch than allowed.
    BatchTooLarge,
    /// The method needs a signed-in caller.
    Unauthenticated,
    /// The access token was good once.
    TokenExpired,
    /// The access token is not good.
    TokenInvalid,
    /// The session of the token has ended.
    SessionEnded,
    /// Unknown user, wrong password or deactivated account: one answer.
    BadCredentials,
    /// The socket belongs to another user.
    OtherIdentity,
    /// The caller may not.
    Forbidden,
    /// Nor this: their own password changes in another way.
    OwnPassword,
    /// The change would leave no active admin.
    LastAdmin,
    /// No such user.
    NotFound,
    /// A unique value is taken.
    AlreadyExists(Unique),
    /// `if_rev` is not the current revision.
    RevConflict {
        /// The current one.
        current_rev: u64,
    },
    /// The password was refused.
    WeakPassword(FieldError),
    /// More calls than the caller may make.
    RateLimited {
        /// When the next call is let through.
        retry_after: Duration,
    },
    /// Too many failed logins of this name or from this address, or too many registrations.
    TooManyLogins {
        /// When the next attempt is let through.
        retry_after: Duration,
    },
    /// Too much work is waiting.
    ServerBusy {
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The socket has as many subscriptions as it may.
    TooManySubscriptions,
    /// The socket has no subscription of this id.
    NoSuchSubscription,
    /// The cursor does not belong to this list.
    CursorInvalid,
    /// The position is not one of this data set.
    PositionUnknown,
    /// The filter or sort names a private field, at this path.
    FilterRefused(String),
    /// The store cannot be used now; nothing was changed.
    StoreUnavailable,
    /// The store did not answer in time; nothing was changed.
    StoreTimeout,
    /// The store refuses for good what it was asked, for this reason; nothing was changed.
    StoreFault(String),
    /// The change may or may not have happened.
    OutcomeUnknown,
}

impl RpcError {
    /// The refusal of one parameter.
    pub fn param(path: impl Into<String>, refusal: Refusal) -> Self {
        Self::InvalidParams(vec![FieldError::new(path, refusal)])
    }

    /// The same, with the parameters that it names inside of the member `path`.
    pub fn within(self, path: &str) -> Self {
        match self {
            Self::InvalidParams(fields) => {
                let inside = |field: FieldError| FieldError { path: format!("{path}.{}", field.path), ..field };
                Self::InvalidParams(fields.into_iter().map(inside).collect())
            }
            Self::FilterRefused(inner) => Self::FilterRefused(format!("{path}.{inner}")),
            other => other,
        }
    }

    /// The same of a step that came after a write was done: it must not say that nothing was changed.
    pub fn after_a_write(self) -> Self {
        match self {
            Self::StoreUnavailable
            | Self::StoreTimeout
            | Self::StoreFault(_)
            | Self::RevConflict { .. }
            | Self::NotFound
            | Self::OtherIdentity => Self::OutcomeUnknown,
            other => other,
        }
    }

    /// The code on the wire.
    pub fn code(&self) -> i32 {
        match self {
            Self::Parse(_) => -32700,
            Self::InvalidRequest(_) | Self::OriginRefused { .. } => -32600,
            Self::UnknownMethod | Self::WebsocketOnly => -32601,
            Self::InvalidParams(_) => -32602,
            Self::Internal | Self::StoreFault(_) => -32603,
            Self::TooManySubscriptions => -32006,
            Self::RequestTooLarge => -32007,
            Self::ResponseTooLarge => -32008,
            Self::BatchTooLarge => -32010,
            Self::Unauthenticated => 1001,
            Self::TokenExpired => 1002,
            Self::TokenInvalid => 1003,
            Self::SessionEnded => 1004,
            Self::BadCredentials => 1005,
            Self::OtherIdentity => 1007,
            Self::Forbidden | Self::OwnPassword => 1101,
            Self::LastAdmin => 1102,
            Self::NotFound => 1201,
            Self::AlreadyExists(_) => 1202,
            Self::RevConflict { .. } => 1203,
            Self::WeakPassword(_) => 1205,
            Self::RateLimited { .. } => 1301,
            Self::TooManyLogins { .. } => 1302,
            Self::ServerBusy { .. } => 1303,
            Self::CursorInvalid => 1401,
            Self::PositionUnknown => 1402,
            Self::NoSuchSubscription => 1403,
            Self::FilterRefused(_) => 1404,
            Self::StoreUnavailable => 1501,
            Self::StoreTimeout => 1502,
            Self::OutcomeUnknown => 1503,
        }
    }

    /// The stable word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Parse(_) => "parse_error",
            Self::InvalidRequest(_) | Self::OriginRefused { .. } => "invalid_request",
            Self::UnknownMethod | Self::WebsocketOnly => "unknown_method",
            Self::InvalidParams(_) => "invalid_params",
            Self::Internal | Self::StoreFault(_) => "internal",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::RequestTooLarge => "request_too_large",
            Self::ResponseTooLarge => "response_too_large",
            Self::BatchTooLarge => "batch_too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token_expired",
            Self::TokenInvalid => "token_invalid",
            Self::SessionEnded => "session_ended",
            Self::BadCredentials => "bad_credentials",
            Self::OtherIdentity => "other_identity",
            Self::Forbidden | Self::OwnPassword => "forbidden",
            Self::LastAdmin => "last_admin",
            Self::NotFound => "not_found",
            Self::AlreadyExists(_) => "already_exists",
            Self::RevConflict { .. } => "rev_conflict",
            Self::WeakPassword(_) => "weak_password",
            Self::RateLimited { .. } => "rate_limited",
            Self::TooManyLogins { .. } => "too_many_logins",
            Self::ServerBusy { .. } => "server_busy",
            Self::CursorInvalid => "cursor_invalid",
            Self::PositionUnknown => "position_unknown",
            Self::NoSuchSubscription => "no_such_subscription",
            Self::FilterRefused(_) => "filter_refused",
            Self::StoreUnavailable => "store_unavailable",
            Self::StoreTimeout => "store_timeout",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }

    /// Whether the same call may succeed later without a change by the caller.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::TooManyLogins { .. }
                | Self::ServerBusy { .. }
                | Self::StoreUnavailable
                | Self::StoreTimeout
        )
    }

    /// When trying again makes sense, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after }
            | Self::TooManyLogins { retry_after }
            | Self::ServerBusy { retry_after } => Some(*retry_after),
            Self::StoreUnavailable | Self::StoreTimeout => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The sentence for people.
    pub fn message(&self) -> String {
        match self {
            Self::Parse(why) | Self::InvalidRequest(why) => (*why).to_owned(),
            Self::OriginRefused { origin, listed: false } => format!(
                "The origin {origin} is not this gateway's own (its host and port are not those of the request). \
                 DOORWARD_ALLOWED_ORIGINS can list it."
            ),
            Self::OriginRefused { origin, listed: true } => format!(
                "The origin {origin} is neither this gateway's own nor one of DOORWARD_ALLOWED_ORIGINS, where it can be \
                 listed."
            ),
            Self::UnknownMethod => "There is no such method.".to_owned(),
            Self::WebsocketOnly => {
                "This method needs a WebSocket; over HTTP send the access token with each request.".to_owned()
            }
            Self::InvalidParams(fields) => match fields.as_slice() {
                [field, ..] if !field.path.is_empty() => format!("Parameter {}: {}.", field.path, field.message),
                [field, ..] => format!("Parameters: {}.", field.message),
                [] => "The parameters are not valid.".to_owned(),
            },
            Self::Internal | Self::StoreFault(_) => {
                "The gateway failed; its log has the cause under this request id.".to_owned()
            }
            Self::RequestTooLarge => "The message is larger than the limit in system.info.".to_owned(),
            Self::ResponseTooLarge => {
                "The reply would be larger than the limit in system.info; ask for less.".to_owned()
            }
            Self::BatchTooLarge => "The batch has more calls than the limit in system.info.".to_owned(),
            Self::Unauthenticated => "Sign in first.".to_owned(),
            Self::TokenExpired => "The token has expired; get a new one.".to_owned(),
            Self::TokenInvalid => "The token is not valid here.".to_owned(),
            Self::SessionEnded => "The session of this token has ended; log in again.".to_owned(),
            Self::BadCredentials => "The login or the password is wrong, or the account cannot be used.".to_owned(),
            Self::OtherIdentity => "This socket belongs to another user; open a new one.".to_owned(),
            Self::Forbidden => "Only an admin may do this.".to_owned(),
            Self::OwnPassword => "Change your own password with auth.change_password.".to_owned(),
            Self::LastAdmin => "This is the last active admin; make another user an admin first.".to_owned(),
            Self::NotFound => "There is no such user.".to_owned(),
            Self::AlreadyExists(Unique::Username) => "This username is taken; choose another.".to_owned(),
            Self::AlreadyExists(Unique::Email) => "This e-mail address is taken.".to_owned(),
            Self::RevConflict { .. } => "The user has changed since; read it again.".to_owned(),
            Self::WeakPassword(field) => format!("The password {}.", field.message),
            Self::RateLimited { .. } => "These are more calls than the limit in system.info; slow down.".to_owned(),
            Self::TooManyLogins { .. } => {
                "There were too many attempts for this name or from this address; try again later.".to_owned()
            }
            Self::ServerBusy { .. } => "The gateway is busy; try again shortly.".to_owned(),
            Self::CursorInvalid => "This cursor is not one of this list; start from its first page.".to_owned(),
            Self::PositionUnknown => {
                "This position is not one of this data set; start from a new list or snapshot.".to_owned()
            }
            Self::TooManySubscriptions => {
                "This socket has as many subscriptions as the limit in system.info; end one first.".to_owned()
            }
            Self::NoSuchSubscription => "This socket has no such subscription.".to_owned(),
            Self::FilterRefused(path) => format!("{path} names a field that you may not read."),
            Self::StoreUnavailable => "The store is not available; nothing was changed.".to_owned(),
            Self::StoreTimeout => "The store did not answer in time; nothing was changed.".to_owned(),
            Self::OutcomeUnknown => "The change may or may not have happened; read before trying again.".to_owned(),
        }
    }

    /// The `data` member: `kind`, `retryable`, `request_id`, and what else fits.
    pub fn data(&self, request_id: &str) -> serde_json::Value {
        let mut data = json!({"kind": self.kind(), "retryable": self.retryable(), "request_id": request_id});
        if let Some(after) = self.retry_after() {
            data["retry_after_ms"] = json!(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        }
        match self {
            Self::InvalidParams(fields) => data["fields"] = json!(fields),
            Self::WeakPassword(field) => data["fields"] = json!([field]),
            Self::FilterRefused(path) => {
                data["fields"] = json!([{"path": path, "rule": "private", "message": "is private"}]);
            }
            Self::AlreadyExists(unique) => {
                data["field"] = json!(match unique {
                    Unique::Username => "username",
                    Unique::Email => "email",
                });
            }
            Self::RevConflict { current_rev } => data["current_rev"] = json!(current_rev),
            Self::WebsocketOnly => data["reason"] = json!("websocket_only"),
            _ => {}
        }
        data
    }
}

/// A new request id: unique within this process, random between processes.
pub fn request_id() -> String {
    static RUN: std::sync::LazyLock<u32> = std::sync::LazyLock::new(rand::random);
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:08x}-{:x}", *RUN, NEXT.fetch_add(1, Ordering::Relaxed))
}

impl From<RpcError> for ErrorObjectOwned {
    fn from(error: RpcError) -> Self {
        let request_id = request_id();
        match error {
            RpcError::Internal => tracing::error!(request_id, "a call failed inside the gateway"),
            RpcError::StoreFault(ref cause) => tracing::error!(request_id, cause, "the store refuses a call for good"),
            _ => tracing::debug!(request_id, code = error.code(), "a call was refused"),
        }
        ErrorObjectOwned::owned(error.code(), error.message(), Some(error.data(&request_id)))
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::AlreadyExists(unique) => Self::AlreadyExists(unique),
            StoreError::NotFound => Self::NotFound,
            StoreError::RevConflict { current_rev } => Self::RevConflict { current_rev },
            StoreError::LastAdmin => Self::LastAdmin,
            StoreError::BadPageKey => Self::CursorInvalid,
            StoreError::BadPosition => Self::PositionUnknown,
            StoreError::Unavailable(cause) => {
                tracing::error!(cause, "the store is not available");
                Self::StoreUnavailable
            }
            StoreError::Timeout => {
                tracing::error!("the store did not answer in time");
                Self::StoreTimeout
            }
            // Logged under the id of the request, by which whoever has the reply finds it.
            StoreError::Unexpected(cause) => Self::StoreFault(cause),
            StoreError::OutcomeUnknown(cause) => {
                tracing::error!(cause, "the outcome of a write is unknown");
                Self::OutcomeUnknown
            }
        }
    }
}

impl From<Busy> for RpcError {
    fn from(busy: Busy) -> Self {
        Self::ServerBusy { retry_after: busy.retry_after }
    }
}

impl From<TooMany> for RpcError {
    fn from(refused: TooMany) -> Self {
        Self::TooManyLogins { retry_after: refused.retry_after }
    }
}

impl From<TokenError> for RpcError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::TokenExpired,
            TokenError::Invalid => Self::TokenInvalid,
        }
    }
}
