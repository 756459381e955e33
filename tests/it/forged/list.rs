//! The forgeries.

use doorward::auth::token::MAX_BYTES;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use serde_json::{Value, json};
use uuid::Uuid;

use super::forger::{Algorithm, Forger, KEY, Members, SECRET, by_key, by_secret, decoded, encoded, parts};

/// All of them, each with what is wrong with it. `good` and `refresh` are tokens of the gateway.
pub fn of(forger: &Forger, good: &str, refresh: &str) -> Vec<(String, String)> {
    let groups = [
        ("header", headers(forger)),
        ("claims", claims(forger)),
        ("spelling", spellings(forger, good)),
        ("signature", signatures(forger, good)),
        ("kind", kinds(forger, good, refresh)),
    ];
    let named = |(group, tokens): (&str, Vec<String>)| {
        tokens.into_iter().enumerate().map(|(at, token)| (format!("{group} {at}"), token)).collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(named).collect()
}

/// A member absent, of a wrong type, or with another value.
fn changed(good: &Members, name: &str, value: Option<Value>) -> Members {
    let mut members = good.clone();
    match value {
        Some(value) => drop(members.insert(name.to_owned(), value)),
        None => drop(members.remove(name)),
    }
    members
}

/// Signed as ours are, under headers that ours do not have.
fn headers(forger: &Forger) -> Vec<String> {
    let good = &forger.header;
    let (alg, kid) = (good["alg"].as_str().unwrap(), good["kid"].as_str().unwrap());
    let other = if forger.algorithm == Algorithm::Hs256 { "EdDSA" } else { "HS256" };
    let mut pairs = Vec::new();
    for name in ["typ", "alg", "kid"] {
        let wrong = [json!(null), json!(7), json!([good[name]]), json!({}), json!(true), json!("")];
        pairs.push((name, None));
        pairs.extend(wrong.map(|value| (name, Some(value))));
    }
    let other_values = [
        ("alg", json!("none")),
        ("alg", json!("None")),
        ("alg", json!(alg.to_lowercase())),
        ("alg", json!(format!("{alg} "))),
        ("alg", json!("HS512")),
        ("alg", json!("RS256")),
        ("alg", json!("ES256")),
        ("alg", json!("Ed25519")),
        ("alg", json!(other)),
        ("typ", json!("JWT")),
        ("typ", json!("rt+jwt")),
        ("typ", json!("AT+JWT")),
        ("typ", json!("application/at+jwt")),
        ("kid", json!(&kid[1..])),
        ("kid", json!(format!("{kid}A"))),
        ("kid", json!(kid.chars().rev().collect::<String>())),
        ("kid", json!("../../dev/null")),
        ("kid", json!("' or 1=1 --")),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("jwk", json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(KEY.verifying_key().as_bytes())})),
        ("jku", json!("https://example.org/keys")),
        ("x5u", json!("https://example.org/keys")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("enc", json!("A256GCM")),
    ];
    pairs.extend(other_values.map(|(name, value)| (name, Some(value))));
    let mut tokens: Vec<String> =
        pairs.into_iter().map(|(name, value)| forger.with_header(&changed(good, name, value))).collect();
    let claims = json!(forger.claims).to_string();
    let texts = [
        String::new(),
        "{}".to_owned(),
        "null".to_owned(),
        "\"at+jwt\"".to_owned(),
        json!(["at+jwt", alg, kid]).to_string(),
        format!(r#"{{"typ":"at+jwt","alg":"none","alg":"{alg}","kid":"{kid}"}}"#),
        format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{kid}"}} x"#),
        format!(r#" {{"typ":"at+jwt","alg":"{alg}","kid":"{kid}"}}"#),
        format!(r#"{{"typ":"at+jwt","alg":"{alg}","kid":"{kid}"}}"#).replace("alg", "Alg"),
    ];
    tokens.extend(texts.iter().map(|header| forger.sign(header, &claims)));
    tokens
}

/// Signed as ours are, with each claim absent, twice, of a wrong type, or out of range.
fn claims(forger: &Forger) -> Vec<String> {
    let good = &forger.claims;
    let iat = good["iat"].as_i64().unwrap();
    let session = Uuid::parse_str(good["sid"].as_str().unwrap()).unwrap();
    let mut pairs = Vec::new();
    for name in good.keys() {
        pairs.push((name.as_str(), None));
    }
    for name in ["iss", "aud", "sub", "sid", "role", "jti"] {
        let wrong = [json!(null), json!(1), json!(""), json!("x"), json!({}), json!(true)];
        pairs.extend(wrong.map(|value| (name, Some(value))));
    }
    for name in ["gen", "iat", "exp", "nbf"] {
        let wrong = [json!(null), json!("1"), json!(1.5), json!(1e30), json!([1]), json!(true)];
        pairs.extend(wrong.map(|value| (name, Some(value))));
    }
    let far = [
        ("iss", json!("Doorward")),
        ("iss", json!(["doorward"])),
        ("aud", json!(["doorward"])),
        ("aud", json!("doorward ")),
        ("sub", json!("me@example.org")),
        ("sub", json!("al\u{0}ce")),
        ("sub", json!("a".repeat(33))),
        ("sid", json!(session.simple().to_string())),
        ("sid", json!(session.urn().to_string())),
        ("jti", json!(session.braced().to_string())),
        ("role", json!("User")),
        ("role", json!("root")),
        ("gen", json!(-1)),
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
        ("nbf", json!(iat + 600)),
        ("nbf", json!(i64::MAX)),
    ];
    pairs.extend(far.map(|(name, value)| (name, Some(value))));
    let mut tokens: Vec<String> =
        pairs.into_iter().map(|(name, value)| forger.with_claims(&changed(good, name, value))).collect();
    let header = json!(forger.header).to_string();
    let twice =
        good.iter().map(|(name, value)| json!(good).to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1));
    let values: Vec<&Value> =
        ["iss", "aud", "sub", "sid", "gen", "role", "iat", "exp", "iat", "jti"].map(|name| &good[name]).to_vec();
    let texts = [json!(values).to_string(), "null".to_owned(), "{}".to_owned(), String::new(), "\u{0}".to_owned()];
    tokens.extend(twice.chain(texts).map(|claims| forger.sign(&header, &claims)));
    tokens
}

/// Other spellings of a good token.
fn spellings(forger: &Forger, good: &str) -> Vec<String> {
    let [header, claims, signature] = parts(good);
    // The last character of a signature has bits to spare: its successor decodes to the same bytes.
    let (rest, last) = signature.split_at(signature.len() - 1);
    let successor = char::from(last.as_bytes()[0] + 1);
    let long = json!(forger.claims).to_string().replacen('{', &format!("{{\"x\":\"{}\",", "y".repeat(2000)), 1);
    vec![
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "\u{e9}.\u{e9}.\u{e9}".to_owned(),
        "null".to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{header}..{claims}.{signature}"),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{good}=="),
        format!("{good} "),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{header} .{claims}.{signature}"),
        format!("{header}.{claims}. {signature}"),
        format!("Bearer {good}"),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}=.{signature}"),
        format!("{header}.{claims}.{rest}{successor}"),
        format!("{header}.{claims}.{rest}"),
        format!("{header}.{claims}.{rest}+"),
        format!("{header}.{claims}.{rest}%3D"),
        format!("{claims}.{header}.{signature}"),
        good.to_uppercase(),
        good[..good.len() / 2].to_owned(),
        format!("{good}{}", "A".repeat(MAX_BYTES)),
        forger.sign(&json!(forger.header).to_string(), &long),
    ]
}

/// Signed with what is not the key, or not at all.
fn signatures(forger: &Forger, good: &str) -> Vec<String> {
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let (header, claims) = (json!(forger.header).to_string(), json!(forger.claims).to_string());
    let [raw_header, raw_claims, signature] = parts(good);
    let with = |bytes: &[u8]| format!("{raw_header}.{raw_claims}.{}", encoded(bytes));
    let length = decoded(signature).len();
    let mut tokens = vec![with(&vec![0; length]), with(&vec![255; length]), with(&decoded(signature)[..length / 2])];
    tokens.push(with(&[decoded(signature), vec![0]].concat()));

    let named = |pairs: &[(&str, Value)]| {
        let mut members = forger.header.clone();
        members.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        json!(members).to_string()
    };
    for none in ["none", "None", "NONE", "nOnE"] {
        tokens.push(format!("{}.{}.", encoded(named(&[("alg", json!(none))])), encoded(&claims)));
    }
    // Secrets that a forger may know: above all the public key, taken for one (RFC 8725 §2.1).
    let public = KEY.verifying_key();
    let pem = public.to_public_key_pem(LineEnding::LF).unwrap();
    let der = public.to_public_key_der().unwrap();
    let x = encoded(public.as_bytes());
    let kid = forger.header["kid"].as_str().unwrap();
    let known: [&[u8]; 8] = [
        b"",
        b"secret",
        kid.as_bytes(),
        public.as_bytes(),
        pem.as_bytes(),
        pem.trim().as_bytes(),
        der.as_bytes(),
        x.as_bytes(),
    ];
    for secret in known {
        tokens.push(by_secret(secret, &named(&[("alg", json!("HS256"))]), &claims));
    }
    // A key of the forger's own, also one that the token brings along.
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(stranger.verifying_key().as_bytes())});
    for own in [&[("alg", json!("EdDSA"))][..], &[("alg", json!("EdDSA")), ("jwk", jwk)], &[("alg", json!("HS256"))]] {
        tokens.push(by_key(&stranger, &named(own), &claims));
    }
    match forger.algorithm {
        Algorithm::Hs256 => tokens.push(by_key(&KEY, &header, &claims)),
        Algorithm::EdDsa => {
            // The gateway's secret is no key of access tokens here.
            tokens.push(by_secret(SECRET.as_bytes(), &header, &claims));
            tokens.push(by_secret(SECRET.as_bytes(), &named(&[("alg", json!("HS256"))]), &claims));
            tokens.push(with(&malleated(&decoded(signature))));
        }
    }
    tokens
}

/// Another signature of the same message, where the scalar is not looked at: that plus the order of the group (RFC 8032 §8.4).
fn malleated(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let (point, scalar) = signature.split_at(32);
    let mut carry = 0;
    let sum = scalar.iter().zip(ORDER).map(|(&byte, order)| {
        let sum = u16::from(byte) + u16::from(order) + carry;
        carry = sum >> 8;
        sum.to_le_bytes()[0]
    });
    point.iter().copied().chain(sum).collect()
}

/// What is a token, but of another kind.
fn kinds(forger: &Forger, good: &str, refresh: &str) -> Vec<String> {
    let [header, claims, signature] = parts(good);
    let flattened = json!({"protected": header, "payload": claims, "signature": signature});
    let general = json!({"payload": claims, "signatures": [{"protected": header, "signature": signature}]});
    vec![
        refresh.to_owned(),
        format!("{header}.{claims}.{refresh}"),
        forger.claims["sid"].as_str().unwrap().to_owned(),
        forger.sign(&json!(forger.header).to_string(), good),
        forger.sign(&json!(forger.header).to_string(), &json!(good).to_string()),
        flattened.to_string(),
        general.to_string(),
        format!("{header}.{}.{}.{claims}.{signature}", encoded("key"), encoded("iv")),
        format!("{header}.{}.{signature}", encoded(good)),
    ]
}
