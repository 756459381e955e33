//! The REST endpoints: the same methods under other names, errors as problem documents (RFC 9457).

use std::sync::Arc;

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
use super::http::{HttpResponse, Received, receive, respond, retry_after, status_of, unreadable, wrong_method};
use crate::permission::Method;
use crate::rpc::Answer;
use crate::rpc::error::RpcError;
use crate::rpc::params::StrictJson;
use crate::users::user::Refusal;

type AppState = State<Arc<App>>;
type Parameters = Query<Vec<(String, String)>>;

/// The user that a path names. A path that cannot be decoded is told like any other malformed parameter.
pub struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = HttpResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpResponse> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(username)) => Ok(Self(username)),
            Err(_) => {
                let refusal = Refusal::new("invalid", "is not percent-encoded UTF-8");
                Err(problem(&RpcError::param("username", refusal).into()))
            }
        }
    }
}

/// `POST /auth/register`.
pub async fn register(State(app): AppState, request: Request<Body>) -> HttpResponse {
    with_body(&app, request, StatusCode::CREATED, |body| Ok((Method::AuthRegister, body))).await
}

/// `POST /auth/login`.
pub async fn login(State(app): AppState, request: Request<Body>) -> HttpResponse {
    with_body(&app, request, StatusCode::OK, |body| Ok((Method::AuthLogin, body))).await
}

/// `GET /users/{username}`, `me` included.
pub async fn get(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    let params = Map::from_iter([("username".to_owned(), json!(username))]);
    without_body(&app, request, StatusCode::OK, Ok((Method::UsersGet, params))).await
}

/// `GET /users`: a list, or with `q` a search.
pub async fn list(
    State(app): AppState,
    query: Result<Parameters, QueryRejection>,
    request: Request<Body>,
) -> HttpResponse {
    let call = match query {
        Ok(Query(query)) => list_params(query),
        Err(_) => Err(RpcError::param("", Refusal::new("query", "the query string cannot be read"))),
    };
    without_body(&app, request, StatusCode::OK, call).await
}

/// `PATCH /users/me`.
pub async fn update_me(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    if username != "me" {
        return wrong_method("GET").await;
    }
    with_body(&app, request, StatusCode::OK, |body| Ok((Method::UsersUpdate, update_params(&username, body)))).await
}

/// `DELETE /users/me`.
pub async fn deactivate_me(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    if username != "me" {
        return wrong_method("GET").await;
    }
    deactivate(State(app), Name(username), request).await
}

/// `DELETE /admin/users/{username}`.
pub async fn deactivate(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    let params = Map::from_iter([("username".to_owned(), json!(username))]);
    without_body(&app, request, StatusCode::NO_CONTENT, Ok((Method::UsersDeactivate, params))).await
}

/// `PATCH /admin/users/{username}`: `users.set_role` when the body is the role alone (with or without `if_rev`).
pub async fn update(State(app): AppState, Name(username): Name, request: Request<Body>) -> HttpResponse {
    with_body(&app, request, StatusCode::OK, |mut body| {
        if body.contains_key("role") && body.keys().all(|name| name == "role" || name == "if_rev") {
            body.insert("username".to_owned(), json!(username));
            return Ok((Method::UsersSetRole, body));
        }
        Ok((Method::UsersUpdate, update_params(&username, body)))
    })
    .await
}

/// The params of `users.update` from a body: the patch's members, with two that stand beside it.
fn update_params(username: &str, mut body: Map<String, Value>) -> Map<String, Value> {
    let mut params = Map::from_iter([("username".to_owned(), json!(username))]);
    for beside in ["current_password", "if_rev"] {
        if let Some(value) = body.remove(beside) {
            params.insert(beside.to_owned(), value);
        }
    }
    params.insert("patch".to_owned(), Value::Object(body));
    params
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
    success: StatusCode,
    call: impl FnOnce(Map<String, Value>) -> Result<(Method, Map<String, Value>), RpcError>,
) -> HttpResponse {
    let types: &[&str] = match *request.method() {
        HttpMethod::PATCH => &["application/json", "application/merge-patch+json"],
        _ => &["application/json"],
    };
    let unreadable = unreadable(request.headers(), types);
    let received = match receive(app, request).await {
        Ok(received) => received,
        Err(error) => return problem(&ErrorObjectOwned::from(error)),
    };
    if let Some(unreadable) = unreadable {
        let error = unreadable.error().into();
        return unreadable.declared(problem_with(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error));
    }
    let body = match serde_json::from_slice::<StrictJson>(&received.body) {
        Ok(StrictJson(Value::Object(body))) => body,
        Ok(_) => return problem(&RpcError::InvalidRequest("The body must be a JSON object.").into()),
        Err(error) if error.is_data() => {
            let refusal = Refusal::new("repeated", "a member is given twice");
            return problem(&RpcError::param("", refusal).into());
        }
        Err(_) => return problem(&RpcError::Parse("The body is not JSON.").into()),
    };
    match call(body) {
        Ok((method, params)) => answer(app, &received, method, params, success).await,
        Err(error) => problem(&error.into()),
    }
}

/// Answers a request whose path and query make the call.
async fn without_body(
    app: &App,
    request: Request<Body>,
    success: StatusCode,
    call: Result<(Method, Map<String, Value>), RpcError>,
) -> HttpResponse {
    let received = receive(app, request).await;
    // All of these need a signed-in caller, who is judged before the parameters, as everywhere.
    let signed_in = |received: Received| match received.client.peer.caller().user {
        Some(_) => Ok(received),
        None => Err(RpcError::Unauthenticated),
    };
    match received.and_then(signed_in).and_then(|received| Ok((received, call?))) {
        Ok((received, (method, params))) => answer(app, &received, method, params, success).await,
        Err(error) => problem(&error.into()),
    }
}

/// Makes the call through the dispatcher, like any other.
async fn answer(
    app: &App,
    received: &Received,
    method: Method,
    params: Map<String, Value>,
    success: StatusCode,
) -> HttpResponse {
    /// A reply of the dispatcher, taken apart.
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow, default)]
        result: Option<&'a RawValue>,
        #[serde(default)]
        error: Option<ErrorObjectOwned>,
    }

    let call = json!({"jsonrpc": "2.0", "id": 0, "method": method.name(), "params": params}).to_string();
    let reply = match app.rpc.dispatch(&received.client, &call, Some(received.came)) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    let text = reply.into_text().unwrap_or_default();
    match serde_json::from_str::<Reply<'_>>(&text) {
        Ok(Reply { error: Some(error), .. }) => problem(&error),
        Ok(Reply { result: Some(_), .. }) if success == StatusCode::NO_CONTENT => respond(success, None, Body::empty()),
        Ok(Reply { result: Some(result), .. }) => {
            respond(success, Some("application/json"), Body::from(result.get().to_owned()))
        }
        _ => problem(&RpcError::Internal.into()),
    }
}

/// An error of a method as a problem document carrying the same code and data.
fn problem(error: &ErrorObjectOwned) -> HttpResponse {
    problem_with(status_of(error.code()), error)
}

/// An error under a status that its code alone would not have.
pub fn problem_with(status: StatusCode, error: &ErrorObjectOwned) -> HttpResponse {
    let data: Value = error.data().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
    let after = data["retry_after_ms"].as_u64();
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
    if let Some(ms) = after {
        retry_after(&mut response, ms);
    }
    response
}
