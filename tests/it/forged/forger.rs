//! Makes tokens of any header and claims, signed with the gateway's own keys or with others.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

/// The secret of the gateways, whatever signs their access tokens.
pub const SECRET: &str = "a secret that gateway and forger share";
/// The key file of those that sign with one.
pub static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));

/// What a gateway signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    EdDsa,
}

/// The members of a token's header or claims.
pub type Members = Map<String, Value>;

/// Knows a good token, and the key.
pub struct Forger {
    pub algorithm: Algorithm,
    pub header: Members,
    pub claims: Members,
}

impl Forger {
    pub fn new(algorithm: Algorithm, good: &str) -> Self {
        let [header, claims, _] = parts(good).map(|part| serde_json::from_slice(&decoded(part)).unwrap_or_default());
        Self { algorithm, header, claims }
    }

    /// A token of any texts, signed as the gateway signs.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        match self.algorithm {
            Algorithm::Hs256 => by_secret(SECRET.as_bytes(), header, claims),
            Algorithm::EdDsa => by_key(&KEY, header, claims),
        }
    }

    /// A token with this header and good claims.
    pub fn with_header(&self, header: &Members) -> String {
        self.sign(&json!(header).to_string(), &json!(self.claims).to_string())
    }

    /// A token with a good header and these claims.
    pub fn with_claims(&self, claims: &Members) -> String {
        self.sign(&json!(self.header).to_string(), &json!(claims).to_string())
    }

    /// Tokens that are good, so that the others are bad for one reason alone.
    pub fn good(&self) -> [String; 3] {
        [json!({}), json!({"scope": ["x"]}), json!({"nbf": self.claims["iat"]})].map(|also| {
            let mut claims = self.claims.clone();
            claims.extend(also.as_object().unwrap().clone());
            self.with_claims(&claims)
        })
    }
}

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub fn decoded(part: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()
}

/// Header, claims and signature of a token, as they are.
pub fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().unwrap()
}

/// A token signed HS256 by any bytes.
pub fn by_secret(secret: &[u8], header: &str, claims: &str) -> String {
    signed(header, claims, |message| {
        Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(message).finalize().into_bytes().to_vec()
    })
}

/// A token signed EdDSA by any key.
pub fn by_key(key: &SigningKey, header: &str, claims: &str) -> String {
    signed(header, claims, |message| key.sign(message).to_vec())
}

fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = encoded(sign(message.as_bytes()));
    format!("{message}.{signature}")
}
