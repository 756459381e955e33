//! Access tokens: a login, its session and its rights, signed for a quarter of an hour (JWT, RFC 7519 and 9068).
//!
//! This judges what a token says and nothing else: whether its session still exists, or its generation is still the
//! user's, is the sessions' question. There are two errors, so that a forger learns nothing from them; the time comes
//! from the gateway's clock alone.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::keys::Keys;
use crate::clock::{Clock, Time};
use crate::users::{Role, User, Username};

/// How far the clocks of two nodes may be apart, in seconds.
const LEEWAY_SECONDS: i64 = 30;
/// How far the clock may be set back for the tokens that were issued before, in seconds.
const SET_BACK_SECONDS: i64 = 300;
/// A token is good this long after it expired, and so is the socket that it signed in.
pub const LEEWAY: Duration = Duration::from_secs(LEEWAY_SECONDS.unsigned_abs());
/// The longest token, in bytes; a longer one is refused unread. Ours have about 400.
pub const MAX_BYTES: usize = 2048;

/// The `typ` of an access token: no other kind of token is taken for one (RFC 9068 §2.1).
const TYPE: &str = "at+jwt";

/// What tokens are signed with and what they say about their origin.
pub struct TokenOptions {
    /// Sign and verify.
    pub keys: Keys,
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
    /// It was good until it expired, or the clock was set back behind its beginning.
    #[error("the access token has expired; refresh it")]
    Expired,
    /// It was never good here.
    #[error("the access token is not valid here; log in again")]
    Invalid,
}

/// Issues and verifies access tokens.
pub struct Tokens {
    keys: Keys,
    issuer: String,
    audience: String,
    lifetime_seconds: i64,
    clock: Clock,
}

impl Tokens {
    /// Tokens of these keys, told the time by `clock`.
    pub fn new(options: TokenOptions, clock: Clock) -> Self {
        let TokenOptions { keys, issuer, audience, lifetime } = options;
        let lifetime_seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        Self { keys, issuer, audience, lifetime_seconds, clock }
    }

    /// The public keys by which others verify tokens, as a JWK set.
    pub fn jwk_set(&self) -> String {
        self.keys.jwk_set()
    }

    /// A token for `user`, as they are now, in `session`, which is over at `ends_at`: so is the token, to a second.
    pub fn issue(&self, user: &User, session: Uuid, ends_at: Time) -> AccessToken {
        let issued_at = self.clock.now().seconds();
        let left = ends_at.seconds().saturating_sub(issued_at).max(1);
        let expires_at = issued_at.saturating_add(self.lifetime_seconds.min(left));
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
        AccessToken { text: self.keys.sign(TYPE, &payload).into(), expires_at: at_seconds(expires_at) }
    }

    /// What `text` says, if it is a token of this gateway whose time is now.
    ///
    /// Errors: [`TokenError::Expired`] for one that is good in every other respect, also when its time is still to come: a
    /// clock was set back, and a refresh gives a token of the time that is now. Else [`TokenError::Invalid`].
    pub fn verify(&self, text: &str) -> Result<Claims, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::Invalid);
        }
        let claims = self.read(text).ok_or(TokenError::Invalid)?;
        let (now, from) = (self.clock.now().seconds(), claims.issued_at.seconds() - SET_BACK_SECONDS);
        match (from..claims.expires_at.seconds() + LEEWAY_SECONDS).contains(&now) {
            true => Ok(claims),
            false => Err(TokenError::Expired),
        }
    }

    /// Whether it is the time of a token that expires then, and was good before: the clock may have been set back meanwhile.
    pub fn is_now(&self, expires_at: Time) -> bool {
        let (now, expires_at) = (self.clock.now().seconds(), expires_at.seconds());
        (expires_at - self.lifetime_seconds - SET_BACK_SECONDS..expires_at + LEEWAY_SECONDS).contains(&now)
    }

    /// The claims of a token that is or was good; `None` for every other text.
    fn read(&self, text: &str) -> Option<Claims> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header = decode(header)?;
        let header: Protected = from_object(&header)?;
        if header.typ != TYPE || !self.keys.verify(header.kid, header.alg, message, signature) {
            return None;
        }
        let payload = decode(payload)?;
        self.check(from_object(&payload)?)
    }

    /// Every claim, whether its time is now or not, which makes another error.
    fn check(&self, payload: Payload<'_>) -> Option<Claims> {
        let Payload { iss, aud, sub, sid, generation, role, iat, exp, nbf, jti } = payload;
        let latest = self.clock.now().seconds() + SET_BACK_SECONDS;
        let is_one_of_ours = iat >= 0
            && (1..=self.lifetime_seconds).contains(&exp.checked_sub(iat)?)
            && nbf.is_none_or(|nbf| nbf <= latest);
        if !is_one_of_ours || iss != self.issuer || aud != self.audience {
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
