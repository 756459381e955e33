//! The REST endpoints: the same methods under other names, errors as problem documents (RFC 9457).
//!
//! A body is handed on as it was written, so that the method refuses the same texts as over JSON-RPC and says the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{Method as HttpMethod, Request, StatusCode};
use jsonrpsee::types::ErrorObjectOwned;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::App;
use super::http::{HttpResponse, Unreadable, receive, refuse, respond, status_of, tell, unreadable};
use crate::permission::Method;
use crate::rpc::Answer;
use crate::rpc::envelope::{members, text_of};
use crate::rpc::error::RpcError;
use crate::users::user::Refusal;

type AppState = State<Arc<App>>;
type Parameters = Query<Vec<(String, String)>>;
/// The names and values of a body, as they are written.
type Members<'a> = Vec<(&'a RawValue, &'a RawValue)>;
/// The call that a request stands for: a method and the object of its params.
type Call = Result<(Method, String), RpcError>;

/// What the requests of a route have in common.
struct Endpoint {
    /// The method that they call, but for a body that makes it another.
    method: Method,
    /// The status of its result.
    success: StatusCode,
    /// What the caller has sent as the method's parameter of this path.
    as_sent: fn(&str) -> &str,
}

impl Endpoint {
    fn new(method: Method, success: StatusCode) -> Self {
        Self { method, success, as_sent: |path| path }
    }
}

/// The user that a path names. A path that cannot be decoded is told like any other malformed parameter.
pub struct Name(Result<String, RpcError>);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let undecodable = |_| RpcError::param("username", Refusal::new("invalid", "is not percent-encoded UTF-8"));
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.map(|Path(username)| username).map_err(undecodable)))
    }
}

/// `POST /auth/register`.
pub async fn register(State(app): AppState, request: Request<Body>) -> HttpResponse {
    let endpoint = Endpoint::new(Method::AuthRegister, StatusCode::CREATED);
    with_body(&app, request, endpoint, |body| Ok((Method::AuthRegister, object(&body)))).await
}

/// `POST /auth/login`.
pub async fn login(State(app): AppState, request: Request<Body>) -> HttpResponse {
    let endpoint = Endpoint::new(Method::AuthLogin, StatusCode::OK);
    with_body(&app, request, endpoint, |body| Ok((Method::AuthLogin, object(&body)))).await
}

/// `GET /users/{username}`.
pub async fn get(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    let call = username.map(|username| (Method::UsersGet, json!({"username": username}).to_string()));
    answer(&app, request, None, Endpoint::new(Method::UsersGet, StatusCode::OK), |_| call).await
}

/// `GET /users/me`.
pub async fn get_me(app: AppState, request: Request<Body>) -> HttpResponse {
    get(app, Name(Ok("me".to_owned())), request).await
}

/// `GET /users`: a list, or with `q` a search.
pub async fn list(
    State(app): AppState,
    query: Result<Parameters, QueryRejection>,
    request: Request<Body>,
) -> HttpResponse {
    let call = match query {
        Ok(Query(query)) => list_params(query).map(|(method, params)| (method, Value::Object(params).to_string())),
        Err(_) => Err(RpcError::param("", Refusal::new("query", "the query string cannot be read"))),
    };
    fn as_sent(path: &str) -> &str {
        match path {
            "text" => "q",
            "filter.role.eq" => "role",
            "filter.status.eq" => "status",
            other => other,
        }
    }
    let endpoint = Endpoint { as_sent, ..Endpoint::new(Method::UsersList, StatusCode::OK) };
    answer(&app, request, None, endpoint, |_| call).await
}

/// `PATCH /users/me`.
pub async fn update_me(State(app): AppState, request: Request<Body>) -> HttpResponse {
    with_body(&app, request, patching(), |body| Ok((Method::UsersUpdate, update_params("me", &body)))).await
}

/// `DELETE /users/me`.
pub async fn deactivate_me(app: AppState, request: Request<Body>) -> HttpResponse {
    deactivate(app, Name(Ok("me".to_owned())), request).await
}

/// `DELETE /admin/users/{username}`.
pub async fn deactivate(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    let call = username.map(|username| (Method::UsersDeactivate, json!({"username": username}).to_string()));
    answer(&app, request, None, Endpoint::new(Method::UsersDeactivate, StatusCode::NO_CONTENT), |_| call).await
}

/// `PATCH /admin/users/{username}`: `users.set_role` when the body is the role alone (with or without `if_rev`).
pub async fn update(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    with_body(&app, request, patching(), |body| {
        let username = username?;
        let has = |name: &str| body.iter().any(|(given, _)| is(given, name));
        if has("role") && body.iter().all(|(given, _)| is(given, "role") || is(given, "if_rev")) {
            return Ok((Method::UsersSetRole, beside_username(&username, &object(&body))));
        }
        Ok((Method::UsersUpdate, update_params(&username, &body)))
    })
    .await
}

fn patching() -> Endpoint {
    fn as_sent(path: &str) -> &str {
        path.strip_prefix("patch").map_or(path, |inside| inside.trim_start_matches('.'))
    }
    Endpoint { as_sent, ..Endpoint::new(Method::UsersUpdate, StatusCode::OK) }
}

/// Whether this is a member's name, however it is escaped.
fn is(name: &RawValue, text: &str) -> bool {
    text_of(name.get()).is_some_and(|name| name == text)
}

/// The object of members.
fn object(members: &[(&RawValue, &RawValue)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// An object with a username besides.
fn beside_username(username: &str, object: &str) -> String {
    let rest = object.strip_prefix('{').unwrap_or_default();
    let comma = if rest == "}" { "" } else { "," };
    format!(r#"{{"username":{}{comma}{rest}"#, json!(username))
}

/// The params of `users.update` from a body: the patch's members, with two that stand beside it.
fn update_params(username: &str, body: &[(&RawValue, &RawValue)]) -> String {
    let (mut params, patch): (Members<'_>, Members<'_>) =
        body.iter().copied().partition(|(name, _)| is(name, "current_password") || is(name, "if_rev"));
    let patch = RawValue::from_string(object(&patch)).expect("members of an object make an object");
    let name = RawValue::from_string(r#""patch""#.to_owned()).expect("it is a string");
    params.push((&name, &patch));
    beside_username(username, &object(&params))
}

/// The call that a query string of `GET /users` stands for.
fn list_params(query: Vec<(String, String)>) -> Result<(Method, Map<String, Value>), RpcError> {
    let method = if query.iter().any(|(name, _)| name == "q") { Method::UsersSearch } else { Method::UsersList };
    let (mut params, mut filter) = (Map::new(), Map::new());
    for (at, (name, value)) in query.iter().enumerate() {
        let (name, value) = (name.clone(), value.clone());
        if query[..at].iter().any(|(earlier, _)| *earlier == name) {
            return Err(RpcError::param(name, Refusal::new("repeated", "is given twice")));
        }
        match name.as_str() {
            "limit" => {
                let not_a_number = |_| RpcError::param("limit", Refusal::new("type", "must be a whole number"));
                let limit: u64 = value.parse().map_err(not_a_number)?;
                params.insert(name, json!(limit));
            }
            "cursor" | "sort" => drop(params.insert(name, json!(value))),
            "q" => drop(params.insert("text".to_owned(), json!(value))),
            "role" | "status" => drop(filter.insert(name, json!({"eq": value}))),
            _ => return Err(RpcError::param(name, Refusal::new("unknown_member", "is not a parameter of this list"))),
        }
    }
    if !filter.is_empty() {
        params.insert("filter".to_owned(), Value::Object(filter));
    }
    Ok((method, params))
}

/// Answers a request whose JSON body makes the call.
async fn with_body(
    app: &App,
    request: Request<Body>,
    endpoint: Endpoint,
    call: impl FnOnce(Members<'_>) -> Call,
) -> HttpResponse {
    let types: &[&str] = match *request.method() {
        HttpMethod::PATCH => &["application/json", "application/merge-patch+json"],
        _ => &["application/json"],
    };
    let unreadable = unreadable(request.headers(), types);
    answer(app, request, unreadable, endpoint, |body| {
        let text = std::str::from_utf8(body).map_err(|_| RpcError::Parse("The body is not UTF-8."))?;
        call(members(text)?)
    })
    .await
}

/// Answers a request: makes its call through the dispatcher, like any other. One that cannot be read is refused there too.
async fn answer(
    app: &App,
    request: Request<Body>,
    unreadable: Option<Unreadable>,
    endpoint: Endpoint,
    call: impl FnOnce(&[u8]) -> Call,
) -> HttpResponse {
    /// A reply of the dispatcher, taken apart.
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, default)]
        result: Option<&'a RawValue>,
        #[serde(default)]
        error: Option<ErrorObjectOwned>,
    }

    let received = match receive(app, request).await {
        Ok(received) => received,
        Err(error) => return problem(&error.into()),
    };
    let call = match unreadable {
        None => call(&received.body).map_err(|error| (status_of(error.code()), error)),
        Some(unreadable) => Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, unreadable.error())),
    };
    let (method, params) = match call {
        Ok(call) => call,
        Err((status, error)) => {
            let (status, error) = refuse(app, &received, Some(endpoint.method), status, error);
            let response = problem_with(status, &error.into());
            return match unreadable {
                None => response,
                Some(unreadable) => unreadable.declared(response),
            };
        }
    };
    let reply = match app.rpc.call(&received.client, method, &params, received.came) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    let text = reply.into_text().unwrap_or_default();
    let success = endpoint.success;
    match serde_json::from_str::<Reply<'_>>(&text) {
        Ok(Reply { error: Some(error), .. }) => problem(&renamed(&error, endpoint.as_sent)),
        Ok(Reply { result: Some(_), .. }) if success == StatusCode::NO_CONTENT => respond(success, None, Body::empty()),
        Ok(Reply { result: Some(result), .. }) => {
            respond(success, Some("application/json"), Body::from(result.get().to_owned()))
        }
        _ => problem(&RpcError::Internal.into()),
    }
}

/// The `data` of an error.
fn data_of(error: &ErrorObjectOwned) -> Value {
    error.data().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
}

/// An error of a method in the words of the endpoint: each path as the caller has sent it.
fn renamed(error: &ErrorObjectOwned, as_sent: fn(&str) -> &str) -> ErrorObjectOwned {
    let (mut data, mut message) = (data_of(error), error.message().to_owned());
    for field in data.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
        let path = field["path"].as_str().unwrap_or_default().to_owned();
        if let Some(rest) = message.strip_prefix(&format!("Parameter {path}: ")) {
            message = format!("Parameter {}: {rest}", as_sent(&path));
        }
        field["path"] = json!(as_sent(&path));
    }
    ErrorObjectOwned::owned(error.code(), message, Some(data))
}

/// An error of a method as a problem document carrying the same code and data.
fn problem(error: &ErrorObjectOwned) -> HttpResponse {
    problem_with(status_of(error.code()), error)
}

/// An error under a status that its code alone would not have.
pub fn problem_with(status: StatusCode, error: &ErrorObjectOwned) -> HttpResponse {
    let data = data_of(error);
    let after = data["retry_after_ms"].as_u64().map(Duration::from_millis);
    let mut body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": error.message(),
        "code": error.code(),
    });
    if let (Some(body), Value::Object(data)) = (body.as_object_mut(), data) {
        body.extend(data);
    }
    let mut response = respond(status, Some("application/problem+json"), Body::from(body.to_string()));
    tell(&mut response, error.code(), after);
    response
}
