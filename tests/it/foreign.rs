//! Clients that we did not write: jsonrpsee's own, over WebSocket and HTTP.

use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::params::{BatchRequestBuilder, ObjectParams};
use jsonrpsee::http_client::{HeaderMap, HeaderValue, HttpClient, HttpClientBuilder};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::WsClientBuilder;
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestGateway};

/// Parameters by name.
fn named(members: Value) -> ObjectParams {
    let mut params = ObjectParams::new();
    for (name, value) in members.as_object().unwrap() {
        params.insert(name, value).unwrap();
    }
    params
}

/// The code of a failed call.
fn code(outcome: Result<Value, ClientError>) -> i32 {
    match outcome {
        Err(ClientError::Call(error)) => error.code(),
        other => panic!("expected an error of the call, got {other:?}"),
    }
}

/// Lives an account's life up to its end, on a client that is signed in as alice when `signed_in` says so.
async fn live(client: &impl ClientT) {
    let me: Value = client.request("users.get", named(json!({"username": "me"}))).await.unwrap();
    assert_eq!(me["user"]["username"], "alice");
    let patch = json!({"username": "me", "patch": {"bio": "from jsonrpsee"}, "if_rev": 1});
    let updated: Value = client.request("users.update", named(patch.clone())).await.unwrap();
    assert_eq!((&updated["user"]["bio"], &updated["user"]["rev"]), (&json!("from jsonrpsee"), &json!(2)));
    assert_eq!(code(client.request("users.update", named(patch)).await), 1203);
    let listed: Value = client.request("users.list", named(json!({"count": "exact"}))).await.unwrap();
    assert_eq!(listed["count"], 1);
    let found: Value = client.request("users.search", named(json!({"text": "alice"}))).await.unwrap();
    assert_eq!(found["hits"][0]["user"]["username"], "alice");

    assert_eq!(code(client.request("users.get", named(json!({"username": "nobody"}))).await), 1201);
    assert_eq!(code(client.request("users.erase", named(json!({"username": "alice"}))).await), 1101);
    assert_eq!(code(client.request("users.get", rpc_params!["alice"]).await), -32602);
    assert_eq!(code(client.request("users.get", ObjectParams::new()).await), -32602);
    assert_eq!(code(client.request("no.such", ObjectParams::new()).await), -32601);
    // With parameters: jsonrpsee writes none of a notification as null, which is no request.
    client.notification("users.get", named(json!({"username": "me"}))).await.unwrap();

    let mut batch = BatchRequestBuilder::new();
    batch.insert("system.ping", ObjectParams::new()).unwrap();
    batch.insert("users.get", named(json!({"username": "nobody"}))).unwrap();
    batch.insert("users.get", named(json!({"username": "me"}))).unwrap();
    let replies = client.batch_request::<Value>(batch).await.unwrap();
    assert_eq!((replies.num_successful_calls(), replies.num_failed_calls()), (2, 1));

    let closed: Value = client.request("users.deactivate", named(json!({"username": "me"}))).await.unwrap();
    assert_eq!(closed["user"]["status"], "deactivated");
}

#[tokio::test]
async fn an_account_lives_through_jsonrpsees_socket_client() {
    let gateway = TestGateway::start().await;
    let client = WsClientBuilder::default().build(format!("ws://{}/rpc", gateway.address)).await.unwrap();
    assert_eq!(code(client.request("users.list", ObjectParams::new()).await), 1001);
    let params = json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});
    let signed_in: Value = client.request("auth.register", named(params)).await.unwrap();
    assert_eq!(signed_in["user"]["rev"], 1);
    live(&client).await;
    // The deactivated account's socket is closed by the gateway.
    tokio::time::timeout(crate::support::PATIENCE, client.on_disconnect()).await.unwrap();
}

#[tokio::test]
async fn an_account_lives_through_jsonrpsees_http_client() {
    let gateway = TestGateway::start().await;
    let url = format!("http://{}/rpc", gateway.address);
    let nobody = HttpClientBuilder::default().build(&url).unwrap();
    assert_eq!(code(nobody.request("users.list", ObjectParams::new()).await), 1001);
    let params = json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});
    let _: Value = nobody.request("auth.register", named(params)).await.unwrap();
    let login = json!({"login": "ALICE", "password": PASSWORD});
    let signed_in: Value = nobody.request("auth.login", named(login.clone())).await.unwrap();
    let bearer = format!("Bearer {}", signed_in["tokens"]["access_token"].as_str().unwrap());
    let headers = HeaderMap::from_iter([("authorization".parse().unwrap(), HeaderValue::from_str(&bearer).unwrap())]);
    let alice: HttpClient = HttpClientBuilder::default().set_headers(headers).build(&url).unwrap();
    live(&alice).await;
    assert_eq!(code(nobody.request("auth.login", named(login)).await), 1005);
}
