//! Tokens that are good, and a table of those that are not.

use serde_json::{Map, Value, json};

use super::*;
use crate::users::{Attributes, Change, ChangeKind, Encoded, Status};

const SECRET: &[u8] = b"a secret of these tests, 32 bytes or more";
const SESSION: Uuid = Uuid::from_u128(0x0192_3f00_0000_7000_8000_0000_0000_0001);

fn tokens_at(clock: Clock) -> Tokens {
    let secret = SECRET.to_vec().into();
    let (issuer, audience) = ("doorward".to_owned(), "an \"audience\"".to_owned());
    Tokens::new(TokenOptions { secret, issuer, audience, lifetime: Duration::from_secs(900) }, clock)
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
    tokens.issue(&alice(), SESSION).text.expose_secret().to_owned()
}

/// Header and claims of a good token.
fn parts(tokens: &Tokens) -> (Map<String, Value>, Map<String, Value>) {
    let text = issue(tokens);
    let mut parts = text.split('.').map(|part| serde_json::from_slice(&decode(part).unwrap_or_default()));
    (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap())
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hs256(secret: &[u8], message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    encode(mac.finalize().into_bytes())
}

/// A token of any texts, signed as ours are.
fn signed(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    format!("{message}.{}", hs256(SECRET, &message))
}

#[test]
fn s11_a_token_says_what_it_was_issued_for() {
    let tokens = tokens();
    let before = Clock::default().now().seconds();
    let token = tokens.issue(&alice(), SESSION);
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
        jsonwebtoken::decode(issue(&tokens()), &DecodingKey::from_secret(SECRET), &validation).unwrap();
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
fn s11_the_issuer_of_a_token_may_be_30_seconds_ahead() {
    let ahead = Clock::default();
    let text_ahead = |by| {
        ahead.advance(Duration::from_secs(by));
        issue(&tokens_at(ahead.clone()))
    };
    assert!(tokens().verify(&text_ahead(29)).is_ok());
    assert_eq!(tokens().verify(&text_ahead(10)), Err(TokenError::Invalid));
}

#[test]
fn s10_another_secret_has_another_kid_and_no_access() {
    let secret = b"another secret of these tests, long enough".to_vec().into();
    let options = TokenOptions {
        secret,
        issuer: "doorward".to_owned(),
        audience: "an \"audience\"".to_owned(),
        lifetime: Duration::from_secs(900),
    };
    let other = Tokens::new(options, Clock::default());
    assert_ne!(parts(&other).0["kid"], parts(&tokens()).0["kid"]);
    assert_eq!(tokens().verify(&issue(&other)), Err(TokenError::Invalid));
    // Not even under the right kid.
    let (header, payload) = parts(&tokens());
    let message = format!("{}.{}", encode(json!(header).to_string()), encode(json!(payload).to_string()));
    let forged = format!("{message}.{}", hs256(b"another secret of these tests, long enough", &message));
    assert_eq!(tokens().verify(&forged), Err(TokenError::Invalid));
}

#[test]
fn s12_the_forger_of_these_tests_can_make_good_tokens() {
    let tokens = tokens();
    let (header, mut payload) = parts(&tokens);
    for also in [json!({}), json!({"scope": ["x"]}), json!({"nbf": payload["iat"]})] {
        payload.extend(also.as_object().unwrap().clone());
        assert!(tokens.verify(&signed(&json!(header).to_string(), &json!(payload).to_string())).is_ok());
    }
}

#[test]
fn s12_mistyped_headers_are_invalid() {
    let tokens = tokens();
    let (good, payload) = parts(&tokens);
    let payload = json!(payload).to_string();
    let kid = good["kid"].as_str().unwrap();
    let mut headers: Vec<String> = ["typ", "alg", "kid"]
        .iter()
        .flat_map(|name| {
            let without = good.iter().filter(|(key, _)| key != name).map(|(key, value)| (key.clone(), value.clone()));
            let with = |value: Value| good.clone().into_iter().chain([(name.to_string(), value)]).collect();
            [without.collect(), with(json!(null)), with(json!(7)), with(json!([good[*name]])), with(json!(""))]
        })
        .map(|header: Map<String, Value>| json!(header).to_string())
        .collect();
    for (name, value) in [
        ("alg", json!("none")),
        ("alg", json!("hs256")),
        ("alg", json!("HS512")),
        ("alg", json!("RS256")),
        ("alg", json!("EdDSA")),
        ("typ", json!("JWT")),
        ("typ", json!("rt+jwt")),
        ("kid", json!(&kid[1..])),
        ("kid", json!(kid.to_uppercase() + "A")),
        ("kid", json!("../../dev/null")),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("jku", json!("https://example.org/keys")),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
    ] {
        let mut header = good.clone();
        header.insert(name.to_owned(), value);
        headers.push(json!(header).to_string());
    }
    headers.extend([
        "".to_owned(),
        "{}".to_owned(),
        "null".to_owned(),
        format!(r#"["at+jwt","HS256","{kid}"]"#),
        format!(r#"{{"typ":"at+jwt","alg":"none","alg":"HS256","kid":"{kid}"}}"#),
        format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{kid}"}} x"#),
    ]);
    for header in headers {
        assert_eq!(tokens.verify(&signed(&header, &payload)), Err(TokenError::Invalid), "{header}");
    }
}

#[test]
fn s12_each_claim_is_required_typed_and_in_range() {
    let tokens = tokens();
    let (header, good) = parts(&tokens);
    let iat = good["iat"].as_i64().unwrap();
    let mut payloads: Vec<String> = Vec::new();
    for name in good.keys() {
        let mut without = good.clone();
        without.remove(name);
        payloads.push(json!(without).to_string());
        let doubled = json!(good).to_string().replacen('{', &format!("{{\"{name}\":{},", good[name]), 1);
        payloads.push(doubled);
    }
    let text = ["iss", "aud", "sub", "sid", "role", "jti"];
    let wrong_text = [json!(null), json!(1), json!(""), json!("x"), json!({}), json!(true)];
    let numbers = ["gen", "iat", "exp", "nbf"];
    let wrong_number = [json!(null), json!("1"), json!(1.5), json!(1e30), json!([1]), json!(true)];
    let far = [
        ("iss", json!("Doorward")),
        ("iss", json!(["doorward"])),
        ("aud", json!(["an \"audience\""])),
        ("sub", json!("me@example.org")),
        ("sub", json!("al\u{0}ce")),
        ("sub", json!("a".repeat(33))),
        ("sid", json!(SESSION.simple().to_string())),
        ("sid", json!(SESSION.urn().to_string())),
        ("jti", json!(SESSION.braced().to_string())),
        ("role", json!("Admin")),
        ("role", json!("root")),
        ("gen", json!(-1)),
        ("iat", json!(iat + 60)),
        ("iat", json!(iat - 60)), // the expiry is then beyond the lifetime
        ("iat", json!(-1)),
        ("iat", json!(i64::MIN)),
        ("exp", json!(iat)),
        ("exp", json!(iat - 1)),
        ("exp", json!(0)),
        ("exp", json!(iat + 901)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(i64::MIN)),
        ("nbf", json!(iat + 60)),
    ];
    let pairs = text
        .iter()
        .flat_map(|name| wrong_text.iter().map(move |value| (*name, value.clone())))
        .chain(numbers.iter().flat_map(|name| wrong_number.iter().map(move |value| (*name, value.clone()))))
        .chain(far);
    for (name, value) in pairs {
        let mut payload = good.clone();
        payload.insert(name.to_owned(), value);
        payloads.push(json!(payload).to_string());
    }
    let values: Vec<_> = ["iss", "aud", "sub", "sid", "gen", "role", "iat", "exp", "nbf", "jti"]
        .iter()
        .map(|name| good.get(*name).unwrap_or(&good["iat"]))
        .collect();
    payloads.extend([json!(values).to_string(), "null".to_owned(), "{}".to_owned(), String::new()]);
    for payload in payloads {
        let token = signed(&json!(header).to_string(), &payload);
        assert_eq!(tokens.verify(&token), Err(TokenError::Invalid), "{payload}");
    }
}

#[test]
fn s12_other_spellings_of_a_good_token_are_invalid() {
    let tokens = tokens();
    let good = issue(&tokens);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    // 32 bytes leave two unused bits in the last of 43 characters: its successor decodes to the same bytes.
    let successor = char::from(signature.as_bytes()[42] + 1);
    let refused = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "\u{e9}.\u{e9}.\u{e9}".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{good} "),
        format!("{good}\n"),
        format!(" {good}"),
        format!("Bearer {good}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{}{successor}", &signature[..42]),
        format!("{header}.{payload}.{}", &signature[..22]),
        format!("{header}.{payload}.{}", encode([0; 32])),
        format!("{payload}.{header}.{signature}"),
        format!("{good}{}", "A".repeat(MAX_BYTES)),
    ];
    for token in refused {
        assert_eq!(tokens.verify(&token), Err(TokenError::Invalid), "{token}");
    }
    let long =
        signed(&decoded(header), &decoded(payload).replacen('{', &format!("{{\"x\":\"{}\",", "y".repeat(2000)), 1));
    assert_eq!(tokens.verify(&long), Err(TokenError::Invalid));
    assert!(tokens.verify(&good).is_ok());
}

fn decoded(part: &str) -> String {
    String::from_utf8(decode(part).unwrap()).unwrap()
}

#[test]
fn s12_any_flipped_bit_makes_it_invalid() {
    let tokens = tokens();
    let good = issue(&tokens);
    assert!(good.len() * 8 >= 1000);
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let flipped = String::from_utf8_lossy(&bytes);
        assert_eq!(tokens.verify(&flipped), Err(TokenError::Invalid), "bit {bit}");
    }
}
