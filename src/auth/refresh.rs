//! Refresh tokens: long-lived, good for one use, and opaque to whoever holds them.
//!
//! A token is the id of its session, its number there, and a keyed hash (HMAC-SHA-256) of both. So nothing of it needs
//! to be stored but the number of the one that is good: what leaks from the store is no token, nor can it be made into
//! one; the same successor can be given twice; and of a token that is ours but used up it is known whose it was.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::Mac;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::seals::{Seals, Secrets};

/// The id of the session and the number.
const NAME_BYTES: usize = 16 + 8;
/// The hash: 256 bits.
const HASH_BYTES: usize = 32;

/// What a refresh token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session.
    pub session: Uuid,
    /// Which of its tokens, counted from 1.
    pub number: u64,
}

/// Why a text is no refresh token of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOurs {
    /// It has not the form of one.
    Malformed,
    /// It has the form, but was made by nobody who knows the key.
    Unknown,
}

/// Writes and reads refresh tokens.
pub struct RefreshKey(Seals);

impl RefreshKey {
    /// The key that belongs to the secrets.
    pub fn derive(secrets: &Secrets) -> Self {
        Self(Seals::derive(secrets, b"doorward refresh token v1"))
    }

    /// The text of a token: always the same while the secret is.
    pub fn write(&self, token: RefreshToken) -> SecretString {
        let mut bytes = [token.session.as_bytes().as_slice(), &token.number.to_be_bytes()].concat();
        let hash = self.0.begin().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&hash);
        BASE64_URL_SAFE_NO_PAD.encode(bytes).into()
    }

    /// The token of a text, whether it can still be used or not.
    pub fn read(&self, text: &SecretString) -> Result<RefreshToken, NotOurs> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.expose_secret()).map_err(|_| NotOurs::Malformed)?;
        let bytes: [u8; NAME_BYTES + HASH_BYTES] = bytes.try_into().map_err(|_| NotOurs::Malformed)?;
        let (name, hash) = bytes.split_at(NAME_BYTES);
        if !self.0.accept(|mac| mac.chain_update(name).verify_slice(hash).is_ok()) {
            return Err(NotOurs::Unknown);
        }
        let (session, number) = name.split_at(16);
        Ok(RefreshToken {
            session: Uuid::from_slice(session).expect("it has 16 bytes"),
            number: u64::from_be_bytes(number.try_into().expect("it has 8 bytes")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(secret: &str) -> RefreshKey {
        RefreshKey::derive(&Secrets { present: secret.to_owned().into(), accepted: None })
    }

    fn key() -> RefreshKey {
        key_of("a secret of at least 32 bytes, for tests")
    }

    #[test]
    fn a_token_is_read_back_and_always_written_alike() {
        let token = RefreshToken { session: Uuid::now_v7(), number: 7 };
        let text = key().write(token);
        assert_eq!(key().read(&text), Ok(token));
        assert_eq!(key().write(token).expose_secret(), text.expose_secret());
    }

    #[test]
    fn s12_every_changed_bit_makes_it_unknown_and_every_other_form_malformed() {
        let text = key().write(RefreshToken { session: Uuid::now_v7(), number: 1 });
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.expose_secret()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = BASE64_URL_SAFE_NO_PAD.encode(flipped).into();
            assert_eq!(key().read(&flipped), Err(NotOurs::Unknown), "{bit}");
        }
        let other = key_of("another secret of at least 32 bytes!");
        assert_eq!(other.read(&text), Err(NotOurs::Unknown));
        let long = format!("{}AA", text.expose_secret());
        for malformed in ["", "x", &text.expose_secret()[1..], &long, &format!("{}=", text.expose_secret())] {
            assert_eq!(key().read(&malformed.to_owned().into()), Err(NotOurs::Malformed), "{malformed}");
        }
    }
}
