//! Access tokens that this gateway has not issued: all are refused by one and the same error, however they are sent.

mod forger;
mod list;

use std::collections::HashSet;
use std::time::Duration;

use doorward::auth::token::TokenError;
use doorward::users::Username;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Failure, TestClient, TestGateway, count, outcome};
use forger::{Algorithm, Forger, KEY, SECRET};

/// Refused tokens that a socket survives.
const TRIES: usize = 2;

/// A gateway whose tokens are signed so.
async fn signing(algorithm: Algorithm) -> TestGateway {
    TestGateway::with(|config| {
        config.jwt_secret = Some(SECRET.to_owned().into());
        config.jwt_key = (algorithm == Algorithm::EdDsa).then(|| (*KEY).clone());
        config.limits.unauthenticated_per_address = 10_000;
    })
    .await
}

/// An error without the id of its request.
fn anonymous(mut failure: Failure) -> Failure {
    assert!(failure.data["request_id"].take().is_string());
    failure
}

/// What all bad tokens get.
async fn refusal(gateway: &TestGateway) -> Failure {
    let failure = gateway.socket().await.call("auth.authenticate", json!({"access_token": "x"})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["kind"]), (1003, &json!("token_invalid")));
    anonymous(failure)
}

/// Sends tokens by `auth.authenticate`, all of which must get this refusal.
async fn refused_on_sockets(gateway: &TestGateway, tokens: &[(String, String)], refusal: &Failure) {
    for some in tokens.chunks(TRIES) {
        let mut socket = gateway.socket().await;
        for (name, token) in some {
            let failure = socket.call("auth.authenticate", json!({"access_token": token})).await.unwrap_err();
            assert_eq!(anonymous(failure), *refusal, "{name}: {token}");
        }
    }
}

/// Sends tokens as bearers, as far as a header can carry them, all of which must get this refusal. How many there were.
async fn refused_over_http(gateway: &TestGateway, tokens: &[(String, String)], refusal: &Failure) -> usize {
    let (http, url) = (reqwest::Client::new(), format!("http://{}/rpc", gateway.address));
    let mut sent = 0;
    for (name, token) in tokens {
        let header = HeaderValue::from_bytes(format!("Bearer {token}").as_bytes());
        // Spaces around a token are the header's, and no part of it.
        let Some(header) = header.ok().filter(|_| token.trim() == token) else { continue };
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "users.get", "params": {"username": "me"}});
        let response = http.post(&url).header("authorization", header).json(&call).send().await.unwrap();
        let asks = response.headers()["www-authenticate"].as_bytes();
        assert_eq!(
            (response.status().as_u16(), asks),
            (401, &br#"Bearer error="invalid_token""#[..]),
            "{name}: {token}"
        );
        let reply: Value = response.json().await.unwrap();
        let failure = outcome(reply).unwrap_err();
        assert_eq!(anonymous(failure), *refusal, "{name}: {token}");
        sent += 1;
    }
    sent
}

/// A good token is taken by both ways, after all that came before.
async fn still_serves(gateway: &TestGateway, mut socket: TestClient) {
    socket.call("auth.authenticate", json!({"access_token": socket.token})).await.unwrap();
    let me = gateway.call(Some(&socket.token), "users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!(me["user"]["username"], "alice");
}

async fn forged_tokens_are_refused(algorithm: Algorithm) {
    let gateway = signing(algorithm).await;
    let mut alice = gateway.socket().await;
    let signed_in = alice.register("alice").await;
    let forger = Forger::new(algorithm, &alice.token);
    for good in forger.good() {
        gateway.call(Some(&good), "users.get", json!({"username": "me"})).await.unwrap();
    }
    let refresh = signed_in["tokens"]["refresh_token"].as_str().unwrap();
    let forged = list::of(&forger, &alice.token, refresh);
    let different: HashSet<&String> = forged.iter().map(|(_, token)| token).collect();
    assert_eq!(different.len(), forged.len(), "none is tried twice");
    assert!(forged.len() >= 200, "{}", forged.len());

    let tokens = &gateway.server().app().rpc.context.tokens;
    for (name, token) in &forged {
        assert_eq!(tokens.verify(token), Err(TokenError::Invalid), "{name}: {token}");
    }
    let refusal = refusal(&gateway).await;
    refused_on_sockets(&gateway, &forged, &refusal).await;
    let sent = refused_over_http(&gateway, &forged, &refusal).await;
    assert!(forged.len() - sent <= 5, "{sent} of {}", forged.len());
    still_serves(&gateway, alice).await;
}

async fn flipped_bits_are_refused(algorithm: Algorithm) {
    let gateway = signing(algorithm).await;
    let alice = gateway.logged_in("alice").await;
    let context = &gateway.server().app().rpc.context;
    let user = context.store.user_get(&Username::parse("alice").unwrap()).await.unwrap().unwrap();
    // Bits of every place and every significance go over the wire, one in this many.
    let stride = count(37, 1);
    let (mut flips, mut for_the_wire) = (0, Vec::new());
    while flips < 10_000 {
        let ends_at = gateway.clock.now().plus(Duration::from_secs(3_600));
        let token = context.tokens.issue(&user, uuid::Uuid::now_v7(), ends_at).text.expose_secret().to_owned();
        for bit in 0..token.len() * 8 {
            let mut bytes = token.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(context.tokens.verify(&flipped), Err(TokenError::Invalid), "bit {bit} of {token}");
            if flips % stride == 0 {
                for_the_wire.push((format!("bit {bit}"), flipped));
            }
            flips += 1;
        }
    }
    let refusal = refusal(&gateway).await;
    refused_on_sockets(&gateway, &for_the_wire, &refusal).await;
    assert!(refused_over_http(&gateway, &for_the_wire, &refusal).await >= for_the_wire.len() / 2);
    still_serves(&gateway, alice).await;
}

#[tokio::test]
async fn s12_forged_tokens_of_hs256_are_refused_alike() {
    forged_tokens_are_refused(Algorithm::Hs256).await;
}

#[tokio::test]
async fn s12_forged_tokens_of_eddsa_are_refused_alike() {
    forged_tokens_are_refused(Algorithm::EdDsa).await;
}

#[tokio::test]
async fn s12_ten_thousand_flipped_bits_of_hs256_are_refused_alike() {
    flipped_bits_are_refused(Algorithm::Hs256).await;
}

#[tokio::test]
async fn s12_ten_thousand_flipped_bits_of_eddsa_are_refused_alike() {
    flipped_bits_are_refused(Algorithm::EdDsa).await;
}

#[tokio::test]
async fn s12_a_token_is_good_in_a_session_of_its_own_user_and_generation_only() {
    let gateway = signing(Algorithm::Hs256).await;
    let (alice, bob) = (gateway.logged_in("alice").await, gateway.logged_in("bob").await);
    let forger = Forger::new(Algorithm::Hs256, &alice.token);
    let changed = |name: &str, value: Value| {
        let mut claims = forger.claims.clone();
        claims.insert(name.to_owned(), value);
        forger.with_claims(&claims)
    };
    let bobs = Forger::new(Algorithm::Hs256, &bob.token).claims;
    for (name, token, code) in [
        ("her own", changed("gen", json!(1)), None),
        ("in bob's session", changed("sid", bobs["sid"].clone()), Some(1004)),
        ("of a generation to come", changed("gen", json!(2)), Some(1004)),
    ] {
        let asked = gateway.call(Some(&token), "users.get", json!({"username": "me"})).await;
        assert_eq!(asked.err().map(|failure| failure.code), code, "{name}");
        let signed_in = gateway.socket().await.call("auth.authenticate", json!({"access_token": token})).await;
        assert_eq!(signed_in.err().map(|failure| failure.code), code, "{name}");
    }
    bob_still_speaks(bob).await;
}

async fn bob_still_speaks(mut bob: TestClient) {
    bob.call("users.get", json!({"username": "me"})).await.unwrap();
}
