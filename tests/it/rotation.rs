//! Changing the keys of tokens, step by step as docs/operations.md tells it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use serde_json::{Value, json};

use crate::support::{Home, Indices, Process, TestClient, TestGateway};

const OLD: &str = "the secret that is to be replaced 1";
const NEW: &str = "the secret that takes its place now";

/// Settings of a gateway.
type Settings<'a> = &'a [(&'a str, &'a str)];

/// Logs in: the tokens of a new session.
async fn log_in(gateway: &Process) -> Value {
    TestClient::connect(gateway.address, &[]).await.login("alice").await["tokens"].clone()
}

/// What the access token of a session is good for, the code of the error or 0, and what its refresh token gives.
async fn judged(gateway: &Process, tokens: &Value) -> (i64, Result<Value, i64>) {
    let mut client = TestClient::connect(gateway.address, &[]).await;
    let access = client.call("auth.authenticate", json!({"access_token": tokens["access_token"]})).await;
    let refreshed = client.call("auth.refresh", json!({"refresh_token": tokens["refresh_token"]})).await;
    let refreshed = refreshed.map(|refreshed| refreshed["tokens"].clone()).map_err(|failure| failure.code);
    (access.map_or_else(|failure| failure.code, |_| 0), refreshed)
}

/// Has gateways with these settings take each other's place, each of which must accept the tokens that the one before
/// issued. Gives the codes of errors that the last one has for the access and refresh token of a session of the first.
async fn change_keys(steps: &[Settings<'_>]) -> (i64, Option<i64>) {
    let home = Home::of_this_run();
    for (number, name) in [(1, "one.pem"), (2, "two.pem")] {
        let path = home.data().with_file_name(name);
        SigningKey::from_bytes(&[number; 32]).write_pkcs8_pem_file(path, LineEnding::LF).unwrap();
    }
    let (first, rest) = steps.split_first().unwrap();
    let (last, rest) = rest.split_last().unwrap();
    let gateway = home.start(first).await;
    TestClient::connect(gateway.address, &[]).await.register("alice").await;
    let (unused, mut tokens) = (log_in(&gateway).await, log_in(&gateway).await);
    gateway.kill().await;
    let go_on = async |gateway: &Process, tokens: Value, step: Settings<'_>| {
        let (access, refreshed) = judged(gateway, &tokens).await;
        assert_eq!(access, 0, "{step:?}");
        refreshed.unwrap_or_else(|code| panic!("{code} at {step:?}"))
    };
    for step in rest {
        let gateway = home.start(step).await;
        tokens = go_on(&gateway, tokens, step).await;
        gateway.kill().await;
    }
    let gateway = home.start(last).await;
    go_on(&gateway, tokens, last).await;
    let (access, refreshed) = judged(&gateway, &unused).await;
    (access, refreshed.err())
}

#[tokio::test]
async fn s10_tokens_go_on_while_another_secret_takes_the_place_of_theirs() {
    let [before, after] = [
        [("JWT_SECRET", OLD), ("DOORWARD_JWT_ACCEPT_SECRET", NEW)],
        [("JWT_SECRET", NEW), ("DOORWARD_JWT_ACCEPT_SECRET", OLD)],
    ];
    // Between gateways that have taken a step and others that have not yet, tokens go to and fro.
    let left = change_keys(&[
        &[("JWT_SECRET", OLD)],
        &before,
        &[("JWT_SECRET", OLD)],
        &before,
        &after,
        &before,
        &after,
        &[("JWT_SECRET", NEW)],
        &after,
        &[("JWT_SECRET", NEW)],
    ])
    .await;
    assert_eq!(left, (1003, Some(1004)));
}

#[tokio::test]
async fn s10_tokens_go_on_while_a_key_file_takes_the_place_of_the_secret_and_another_that_of_the_file() {
    const SECRET: (&str, &str) = ("JWT_SECRET", OLD);
    const SECRET_TOO: (&str, &str) = ("DOORWARD_JWT_ACCEPT_SECRET", OLD);
    let key = |file| ("DOORWARD_JWT_KEY_FILE", file);
    let key_too = |file| ("DOORWARD_JWT_ACCEPT_KEY_FILE", file);
    let left = change_keys(&[
        &[SECRET],
        &[SECRET, key_too("one.pem")],
        &[SECRET, key("one.pem"), SECRET_TOO],
        &[SECRET, key_too("one.pem")],
        &[SECRET, key("one.pem"), SECRET_TOO],
        &[SECRET, key("one.pem")],
        &[SECRET, key("one.pem"), key_too("two.pem")],
        &[SECRET, key("two.pem"), key_too("one.pem")],
        &[SECRET, key("one.pem"), key_too("two.pem")],
        &[SECRET, key("two.pem"), key_too("one.pem")],
        &[SECRET, key("two.pem")],
    ])
    .await;
    // Refresh tokens are the secret's throughout.
    assert_eq!(left, (1003, None));
}

/// Three gateways that serve side by side take each step one after the other: at every moment, what one of them has issued
/// is good at all.
#[tokio::test(flavor = "multi_thread")]
async fn s10_gateways_in_different_steps_of_a_change_accept_what_the_others_have_issued() {
    let home = Home::elastic(Indices::new());
    let steps: [Settings<'_>; 4] = [
        &[("JWT_SECRET", OLD)],
        &[("JWT_SECRET", OLD), ("DOORWARD_JWT_ACCEPT_SECRET", NEW)],
        &[("JWT_SECRET", NEW), ("DOORWARD_JWT_ACCEPT_SECRET", OLD)],
        &[("JWT_SECRET", NEW)],
    ];
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(home.start(steps[0]).await);
    }
    for name in ["alice", "bob"] {
        TestClient::connect(gateways[0].address, &[]).await.register(name).await;
    }
    let (mut refreshed, mut pairs) = (log_in(&gateways[0]).await, 0);
    for step in &steps[1..] {
        for at in 0..gateways.len() {
            let next = home.start(step).await;
            std::mem::replace(&mut gateways[at], next).kill().await;
            for from in &gateways {
                let mut issuer = TestClient::connect(from.address, &[]).await;
                let issued = issuer.login("alice").await["tokens"].clone();
                let cursor = issuer.call("users.list", json!({"limit": 1})).await.unwrap()["next_cursor"].clone();
                for to in &gateways {
                    // The same refresh token at all: the first use leads on, the others to the same successor.
                    let (access, successor) = judged(to, &issued).await;
                    assert_eq!(access, 0, "{step:?}");
                    successor.unwrap();
                    refreshed = judged(to, &refreshed).await.1.unwrap();
                    let mut client = TestClient::connect(to.address, &[]).await;
                    client.login("alice").await;
                    client.call("users.list", json!({"limit": 1, "cursor": cursor})).await.unwrap();
                    pairs += 1;
                }
            }
        }
    }
    assert_eq!(pairs, 3 * 3 * 9);
}

#[tokio::test]
async fn s10_the_public_keys_are_served_all_that_are_good_and_nothing_private() {
    let [one, two] = [1, 2].map(|number| SigningKey::from_bytes(&[number; 32]));
    let served = async |gateway: &TestGateway| {
        let response = gateway.rest("GET", "/.well-known/jwks.json", None, None).await;
        assert_eq!(response.status(), 200);
        for (name, value) in [
            ("content-type", "application/jwk-set+json"),
            ("cache-control", "public, max-age=300"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(response.headers()[name], value);
        }
        let set: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(set.as_object().unwrap().len(), 1);
        set["keys"].as_array().unwrap().clone()
    };
    assert_eq!(served(&TestGateway::start().await).await, [] as [Value; 0]);

    let gateway =
        TestGateway::with(|config| (config.jwt_key, config.jwt_accept_key) = (Some(two.clone()), Some(one.clone())))
            .await;
    let keys = served(&gateway).await;
    let x = [&two, &one].map(|key| BASE64_URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes()));
    assert!(keys.iter().map(|key| &key["x"]).eq(&x), "{keys:?}");
    for key in &keys {
        let members: Vec<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"]);
    }
    let token = gateway.logged_in("alice").await.token;
    assert_eq!(jsonwebtoken::decode_header(token).unwrap().kid.unwrap(), keys[0]["kid"]);
    assert_eq!(gateway.rest("POST", "/.well-known/jwks.json", None, None).await.status(), 405);
}
