//! A call that waits is judged by what its caller is when it writes, not by what they were when it came.

use std::sync::Arc;

use doorward::auth::password::Password;
use doorward::store::PasswordChange;
use doorward::users::Username;
use doorward::users::rules::{self, Act};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, When};
use crate::support::{Failure, Indices, PASSWORD, TestClient, TestGateway};

const NEW: &str = "another horse 8 battery";

/// A gateway whose one hashing thread takes its time.
async fn slow_to_hash() -> TestGateway {
    TestGateway::with(|config| (config.bcrypt_cost, config.hash_threads) = (11, 1)).await
}

/// The outcome of a call during which something is done: while it waits for a hash, or the hash for its thread.
async fn meanwhile<T>(gateway: &TestGateway, call: impl Future<Output = T>, done: impl Future<Output = ()>) -> T {
    let context = &gateway.server().app().rpc.context;
    let hash = || context.hasher.hash(Password::parse(NEW).unwrap());
    let done = async {
        while context.hasher.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        done.await;
    };
    let (outcome, ..) = tokio::join!(call, hash(), hash(), done);
    outcome
}

/// Another password for a user, as another gateway would write it.
async fn set_password(gateway: &TestGateway, username: &str, keeps: bool) {
    let context = &gateway.server().app().rpc.context;
    // Made by a gateway with hashes of no cost.
    let hash = doorward::store::PasswordHash::new("$2b$04$".to_owned() + &".".repeat(53));
    let user = context.store.user_get(&Username::parse(username).unwrap()).await.unwrap().unwrap();
    let act = Act { actor: None, at: gateway.clock.now(), reason: None };
    let next = rules::change_password(&user, keeps, act);
    context.store.user_replace(next.clone(), PasswordChange::Set(hash)).await.unwrap();
    context.directory.apply(&Arc::new(next), None);
}

/// What happens to alice while she waits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    PasswordSet,
    PasswordChangedWithSessionsKept,
    Deactivated,
    SessionEnded,
}

const EVENTS: [Event; 4] =
    [Event::PasswordSet, Event::PasswordChangedWithSessionsKept, Event::Deactivated, Event::SessionEnded];

async fn happens(gateway: &TestGateway, event: Event, name: &str, token: &str, admin: &str) {
    let (admin, by) = (Some(admin), Some(token));
    match event {
        Event::PasswordSet => set_password(gateway, name, false).await,
        Event::PasswordChangedWithSessionsKept => set_password(gateway, name, true).await,
        Event::Deactivated => {
            gateway.call(admin, "users.deactivate", json!({"username": name})).await.map(drop).unwrap();
        }
        Event::SessionEnded => gateway.call(by, "auth.logout", json!({})).await.map(drop).unwrap(),
    }
}

/// A call over HTTP, or on a socket: the code of its error; 0 when it was done, and when the socket was closed instead.
async fn called(gateway: &TestGateway, token: &str, socket: Option<TestClient>, method: &str, params: Value) -> i64 {
    let Some(mut socket) = socket else {
        return gateway.call(Some(token), method, params).await.map_or_else(|failure| failure.code, |_| 0);
    };
    assert!(socket.begin(method, params).await);
    while let Some(frame) = socket.frame().await {
        if frame.get("id").is_some() {
            return frame["error"]["code"].as_i64().unwrap_or(0);
        }
    }
    -1
}

#[tokio::test]
async fn who_waits_for_a_hash_to_change_their_own_account_is_judged_when_it_is_written() {
    let gateway = slow_to_hash().await;
    let admin = gateway.admin("keeper").await.token;
    let context = &gateway.server().app().rpc.context;
    let methods = [
        (
            "users.update",
            json!({"username": "me", "patch": {"email": "new@example.com"}, "current_password": PASSWORD}),
        ),
        ("auth.change_password", json!({"current_password": PASSWORD, "new_password": NEW})),
    ];
    let mut number = 0;
    for (method, params) in methods {
        for event in EVENTS {
            for by_socket in [false, true] {
                number += 1;
                let name = format!("alice{number}");
                let alice = gateway.logged_in(&name).await;
                let token = alice.token.clone();
                let socket = by_socket.then_some(alice);
                let call = called(&gateway, &token, socket, method, params.clone());
                let code = meanwhile(&gateway, call, happens(&gateway, event, &name, &token, &admin)).await;
                let case = format!("{method} over {} after {event:?}", if by_socket { "WebSocket" } else { "HTTP" });
                match (event, by_socket) {
                    (Event::PasswordChangedWithSessionsKept, _) => assert_eq!(code, 1005, "{case}"),
                    // Revoked: the socket is closed before its call is answered.
                    (_, true) => assert!(matches!(code, -1 | 1004), "{case}: {code}"),
                    (_, false) => assert_eq!(code, 1004, "{case}"),
                }
                let user = context.store.user_get(&Username::parse(&name).unwrap()).await.unwrap().unwrap();
                let email = user.email.as_ref().map(doorward::users::Email::as_str);
                assert_eq!(email, Some(&*format!("{name}@example.com")), "{case}");
                let revisions = if event == Event::SessionEnded { 1 } else { 2 };
                assert_eq!(user.rev, revisions, "{case}: {:?}", user.last_change);
            }
        }
    }
}

#[tokio::test]
async fn an_admin_who_waits_for_a_hash_and_is_none_any_more_makes_no_user_and_sets_no_password() {
    let gateway = slow_to_hash().await;
    let admin = gateway.admin("keeper").await.token;
    gateway.logged_in("alice").await;
    let bob = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD});
    for (at, (method, params)) in
        [("users.create", bob), ("users.set_password", json!({"username": "alice", "new_password": NEW}))]
            .into_iter()
            .enumerate()
    {
        for by_socket in [false, true] {
            let name = format!("other{at}{by_socket}");
            let other = gateway.admin(&name).await;
            let token = other.token.clone();
            let demote = async {
                let demoted = json!({"username": name, "role": "user"});
                gateway.call(Some(&admin), "users.set_role", demoted).await.unwrap();
            };
            let call = called(&gateway, &token, by_socket.then_some(other), method, params.clone());
            let code = meanwhile(&gateway, call, demote).await;
            assert!(matches!(code, 1001 | 1004) || by_socket && code == -1, "{method} {by_socket}: {code}");
        }
    }
    let bob = gateway.call(Some(&admin), "users.get", json!({"username": "bob"})).await;
    assert_eq!(bob.unwrap_err().code, 1201);
    let alice = gateway.call(Some(&admin), "users.get", json!({"username": "alice"})).await.unwrap();
    assert_eq!(alice["user"]["rev"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_waits_for_the_store_and_is_none_any_more_changes_nobody() {
    let indices = Indices::new();
    let proxy = FaultProxy::start(elastic_address()).await;
    let slow = TestGateway::over(indices.config_at(&proxy.url())).await;
    let keeper = slow.admin("keeper").await.token;
    let victim = slow.socket().await.register("alice").await;
    let session = &victim["session"]["id"];
    let token = victim["tokens"]["access_token"].as_str().unwrap();
    for (method, params, index) in [
        ("users.update", json!({"username": "alice", "patch": {"bio": "x"}}), "-users"),
        ("users.deactivate", json!({"username": "alice"}), "-users"),
        ("users.set_role", json!({"username": "alice", "role": "admin"}), "-users"),
        ("users.erase", json!({"username": "alice"}), "-users"),
        ("auth.end_session", json!({"session": session}), "-sessions"),
    ] {
        let name = method.replace(['.', '_'], "-");
        let other = slow.admin(&name).await.token;
        let read =
            move |asked: &Method, path: &str| asked == Method::GET && path.contains(index) && path.contains("/_doc/");
        let held = proxy.rule(read, When::Times(1), Fault::Hold);
        let demoted = async {
            held.wait_for(1).await;
            let user = json!({"username": name, "role": "user"});
            slow.call(Some(&keeper), "users.set_role", user).await.unwrap();
            held.release();
        };
        let (outcome, ()): (Result<Value, Failure>, ()) =
            tokio::join!(slow.call(Some(&other), method, params), demoted);
        let code = outcome.map_or_else(|failure| failure.code, |_| 0);
        assert_eq!(code, 1004, "{method}");
        let alice = slow.call(Some(token), "users.get", json!({"username": "me"})).await.unwrap();
        assert_eq!(alice["user"]["rev"], 1, "{method}");
    }
}
