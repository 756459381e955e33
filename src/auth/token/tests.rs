//! Tokens that are good. Those that are not are in `tests/it/forged`, since all are refused alike to whoever sends them.

use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::*;
use crate::auth::keys::Key;
use crate::users::{Attributes, Change, ChangeKind, Encoded, Status};

const SECRET: &str = "a secret of these tests, 32 bytes or more";
const SESSION: Uuid = Uuid::from_u128(0x0192_3f00_0000_7000_8000_0000_0000_0001);

fn tokens_at(clock: Clock) -> Tokens {
    tokens_of(Keys::new(key(SECRET), None), clock)
}

fn key(secret: &str) -> Key {
    Key::hs256(&secret.to_owned().into())
}

fn tokens_of(keys: Keys, clock: Clock) -> Tokens {
    let (issuer, audience) = ("doorward".to_owned(), "an \"audience\"".to_owned());
    Tokens::new(TokenOptions { keys, issuer, audience, lifetime: Duration::from_secs(900) }, clock)
}

fn tokens() -> Tokens {
    tokens_at(Clock::default())
}

fn alice() -> User {
    let username = Username::parse("Alice").unwrap();
    let at = Time::parse("2026-01-31T08:05:00Z").unwrap();
    User {
        username: username.clone(),
        email: None,
        display_name: "Alice".to_owned(),
        bio: String::new(),
        avatar_url: None,
        attributes: Attributes::default(),
        status: Status::Active,
        role: Role::Admin,
        created_at: at,
        updated_at: at,
        rev: 1,
        last_change: Change { kind: ChangeKind::Created, fields: vec![], actor: Some(username), at, reason: None },
        generation: 7,
        encoded: Encoded::default(),
    }
}

fn issue(tokens: &Tokens) -> String {
    tokens.issue(&alice(), SESSION, Time::from_ms(i64::MAX)).text.expose_secret().to_owned()
}

/// Header and claims of a good token.
fn parts(tokens: &Tokens) -> (Map<String, Value>, Map<String, Value>) {
    let text = issue(tokens);
    let mut parts = text.split('.').map(|part| serde_json::from_slice(&decode(part).unwrap_or_default()));
    (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap())
}

#[test]
fn s11_a_token_says_what_it_was_issued_for() {
    let tokens = tokens();
    let before = Clock::default().now().seconds();
    let token = tokens.issue(&alice(), SESSION, Time::from_ms(i64::MAX));
    let claims = tokens.verify(token.text.expose_secret()).unwrap();
    assert_eq!((claims.username.as_str(), claims.session, claims.generation), ("Alice", SESSION, 7));
    assert_eq!((claims.role, claims.expires_at), (Role::Admin, token.expires_at));
    assert!((before..=before + 5).contains(&claims.issued_at.seconds()));
    assert_eq!(claims.expires_at.seconds() - claims.issued_at.seconds(), 900);

    let (header, payload) = parts(&tokens);
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("HS256")));
    assert_eq!(header["kid"].as_str().unwrap().len(), 16);
    let names = ["aud", "exp", "gen", "iat", "iss", "jti", "role", "sid", "sub"];
    assert!(payload.keys().eq(names), "{payload:?}");
    assert_ne!(parts(&tokens).1["jti"], payload["jti"]);
    assert!(!format!("{token:?}").contains("eyJ"), "a token has no readable Debug");
}

#[test]
fn s10_a_standard_verifier_with_the_bytes_of_the_secret_accepts_it() {
    let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
    validation.set_audience(&["an \"audience\""]);
    validation.set_issuer(&["doorward"]);
    let data: jsonwebtoken::TokenData<Value> =
        jsonwebtoken::decode(issue(&tokens()), &DecodingKey::from_secret(SECRET.as_bytes()), &validation).unwrap();
    assert_eq!(data.claims["sub"], "Alice");
}

#[test]
fn s11_a_token_is_good_until_30_seconds_after_its_expiry() {
    let clock = Clock::default();
    let tokens = tokens_at(clock.clone());
    let text = issue(&tokens);
    clock.advance(Duration::from_secs(900 + 28));
    assert!(tokens.verify(&text).is_ok());
    clock.advance(Duration::from_secs(2));
    assert_eq!(tokens.verify(&text), Err(TokenError::Expired));
    clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(tokens.verify(&text), Err(TokenError::Expired));
    assert_eq!(tokens.verify(&text[..text.len() - 1]), Err(TokenError::Invalid));
}

#[test]
fn s11_the_issuer_of_a_token_may_be_five_minutes_ahead_and_of_one_further_ahead_a_refresh_is_asked_for() {
    let ahead = Clock::default();
    let text_ahead = |by| {
        ahead.advance(Duration::from_secs(by));
        issue(&tokens_at(ahead.clone()))
    };
    assert!(tokens().verify(&text_ahead(290)).is_ok());
    assert_eq!(tokens().verify(&text_ahead(20)), Err(TokenError::Expired));
}

#[test]
fn s10_another_secret_has_another_kid_and_no_access() {
    const OTHER: &str = "another secret of these tests, long enough";
    let other = tokens_of(Keys::new(key(OTHER), None), Clock::default());
    assert_ne!(parts(&other).0["kid"], parts(&tokens()).0["kid"]);
    assert_eq!(tokens().verify(&issue(&other)), Err(TokenError::Invalid));
}

#[test]
fn s10_two_secrets_are_good_while_one_takes_the_others_place() {
    let [old, new] = ["the former secret of these tests, long enough", SECRET];
    let now = |keys| tokens_of(keys, Clock::default());
    let before = now(Keys::new(key(old), [key(new)]));
    let after = now(Keys::new(key(new), [key(old)]));
    for (issued, by, judge) in [(&before, "old", &after), (&after, "new", &before)] {
        assert!(judge.verify(&issue(issued)).is_ok(), "{by}");
    }
    let done = now(Keys::new(key(new), None));
    assert_eq!(done.verify(&issue(&before)), Err(TokenError::Invalid));
    assert!(done.verify(&issue(&after)).is_ok());
}
