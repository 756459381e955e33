//! Access tokens: a login, its session and its rights, signed for a quarter of an hour (JWT, RFC 7519 and 9068).
//!
//! This judges what a token says and nothing else: whether its session still exists, or its generation is still the
//! user's, is the sessions' question. There are two errors, so that a forger learns nothing from them; the time comes
//! from the gateway's clock alone.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::clock::{Clock, Time};
use crate::users::{Role, User, Username};

/// How far the clocks of two nodes may be apart, in seconds: a token is good this long after it expired.
pub const LEEWAY_SECONDS: i64 = 30;
/// The longest token, in bytes; a longer one is refused unread. Ours have about 400.
pub const MAX_BYTES: usize = 2048;

/// The `typ` of an access token: no other kind of token is taken for one (RFC 9068 §2.1).
const TYPE: &str = "at+jwt";
/// From which the identity of a key is derived.
const KID_LABEL: &[u8] = b"doorward-kid";

/// What tokens are signed with and what they say about their origin.
#[derive(Debug)]
pub struct TokenOptions {
    /// The bytes of the shared secret: the key of HS256, with which other services verify. `config` refuses short ones.
    pub secret: SecretSlice<u8>,
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`.
    pub audience: String,
    /// From issue to expiry; whole seconds, the rest is cut off.
    pub lifetime: Duration,
}

/// A new access token.
#[derive(Debug)]
pub struct AccessToken {
    /// The token as the client sends it back.
    pub text: SecretString,
    /// When it expires, without the leeway.
    pub expires_at: Time,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: who.
    pub username: Username,
    /// `sid`: the session that it was issued in.
    pub session: Uuid,
    /// `gen`: the generation of the user's tokens then.
    pub generation: u64,
    /// `role`: the user's role then.
    pub role: Role,
    /// `iat`: when it was issued, in whole seconds.
    pub issued_at: Time,
    /// `exp`: when it expires, in whole seconds, without the leeway.
    pub expires_at: Time,
    /// `jti`: its own identity.
    pub id: Uuid,
}

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was good until it expired.
    #[error("the access token has expired; refresh it")]
    Expired,
    /// It was never good here.
    #[error("the access token is not valid here; log in again")]
    Invalid,
}

/// Issues and verifies access tokens.
pub struct Tokens {
    /// Signs new tokens.
    key: Key,
    /// Of new tokens.
    header: Header,
    issuer: String,
    audience: String,
    lifetime_seconds: i64,
    clock: Clock,
}

impl Tokens {
    /// Tokens of one secret, told the time by `clock`.
    pub fn new(options: TokenOptions, clock: Clock) -> Self {
        let TokenOptions { secret, issuer, audience, lifetime } = options;
        let key = Key::hs256(secret.expose_secret());
        let mut header = Header::new(key.algorithm);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key.kid.clone());
        let lifetime_seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        Self { key, header, issuer, audience, lifetime_seconds, clock }
    }

    /// A token for `user`, as they are now, in `session`.
    pub fn issue(&self, user: &User, session: Uuid) -> AccessToken {
        let issued_at = self.clock.now().seconds();
        let expires_at = issued_at.saturating_add(self.lifetime_seconds);
        let payload = Payload {
            iss: self.issuer.as_str().into(),
            aud: self.audience.as_str().into(),
            sub: user.username.as_str().into(),
            sid: session.to_string().into(),
            generation: user.generation,
            role: user.role.as_str().into(),
            iat: issued_at,
            exp: expires_at,
            nbf: None,
            jti: Uuid::new_v4().to_string().into(),
        };
        let text = jsonwebtoken::encode(&self.header, &payload, &self.key.signing)
            .expect("text and numbers can be written, and the key is of the header's algorithm");
        AccessToken { text: text.into(), expires_at: at_seconds(expires_at) }
    }

    /// What `text` says, if it is a token of this gateway that has not expired.
    ///
    /// Errors: [`TokenError::Expired`] for one that is good in every other respect, else [`TokenError::Invalid`].
    pub fn verify(&self, text: &str) -> Result<Claims, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::Invalid);
        }
        let claims = self.read(text).ok_or(TokenError::Invalid)?;
        if self.clock.now().seconds() >= claims.expires_at.seconds() + LEEWAY_SECONDS {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// The claims of a token that is or was good; `None` for every other text.
    fn read(&self, text: &str) -> Option<Claims> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header = decode(header)?;
        let header: Protected = from_object(&header)?;
        let key = self.key_of(header.kid).filter(|key| header.alg == key.alg && header.typ == TYPE)?;
        if !jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.verifying, key.algorithm).ok()? {
            return None;
        }
        let payload = decode(payload)?;
        self.check(from_object(&payload)?)
    }

    /// The key of a `kid`. The one place that changes when, during a rotation, two are good.
    fn key_of(&self, kid: &str) -> Option<&Key> {
        Some(&self.key).filter(|key| key.kid == kid)
    }

    /// Every claim but the expiry, which makes another error.
    fn check(&self, payload: Payload<'_>) -> Option<Claims> {
        let Payload { iss, aud, sub, sid, generation, role, iat, exp, nbf, jti } = payload;
        let latest = self.clock.now().seconds() + LEEWAY_SECONDS;
        let in_time = (0..=latest).contains(&iat)
            && (1..=self.lifetime_seconds).contains(&exp.checked_sub(iat)?)
            && nbf.is_none_or(|nbf| nbf <= latest);
        if !in_time || iss != self.issuer || aud != self.audience {
            return None;
        }
        Some(Claims {
            username: Username::parse(&sub).ok()?,
            session: hyphenated(&sid)?,
            generation,
            role: Role::parse(&role)?,
            issued_at: at_seconds(iat),
            expires_at: at_seconds(exp),
            id: hyphenated(&jti)?,
        })
    }
}

/// A key, and the one algorithm that it is good for.
struct Key {
    kid: String,
    algorithm: Algorithm,
    /// The name of `algorithm` in a header.
    alg: &'static str,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl Key {
    /// A shared secret. Its `kid` is a keyed hash, which tells two secrets apart and reveals neither.
    fn hs256(secret: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        mac.update(KID_LABEL);
        let digest = mac.finalize().into_bytes();
        let kid = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let (signing, verifying) = (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret));
        Self { kid, algorithm: Algorithm::HS256, alg: "HS256", signing, verifying }
    }
}

/// A header, whole: any other member, `crit` above all, is one that this gateway would have to understand.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

/// The claims on the wire. Others may stand beside them and say nothing here.
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    aud: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(borrow)]
    sid: Cow<'a, str>,
    #[serde(rename = "gen")]
    generation: u64,
    #[serde(borrow)]
    role: Cow<'a, str>,
    iat: i64,
    exp: i64,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    #[serde(borrow)]
    jti: Cow<'a, str>,
}

/// A member that may be absent, but not null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    i64::deserialize(deserializer).map(Some)
}

/// Base64url without padding, in its one canonical spelling (RFC 7515 §2).
fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// A JSON object, each member at most once. serde would take an array of the members' values as well.
fn from_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}

/// A UUID in its usual spelling; `uuid` would read three others too.
fn hyphenated(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH)
}

fn at_seconds(seconds: i64) -> Time {
    Time::from_ms(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests;
