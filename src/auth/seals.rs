//! Keyed hashes (HMAC-SHA-256), by which the gateway knows again what it has handed out and kept no copy of.
//!
//! Each purpose has a key of its own, derived from `JWT_SECRET`, so that nodes that share the secret accept each other's
//! seals. While the secret is changed, what was sealed under another one is accepted as well.

use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// The secret of the settings, and the one accepted besides.
pub struct Secrets {
    /// What all that is new is made with.
    pub present: SecretString,
    /// The next secret before a change, or the former one after it.
    pub accepted: Option<SecretString>,
}

/// The seals of one purpose.
#[derive(Clone)]
pub struct Seals {
    present: Hmac<Sha256>,
    accepted: Option<Hmac<Sha256>>,
}

impl Seals {
    /// Those of a purpose, each of which has a name of its own.
    pub fn derive(secrets: &Secrets, purpose: &[u8]) -> Self {
        let derive = |secret: &SecretString| {
            let key = keyed(secret.expose_secret().as_bytes()).chain_update(purpose).finalize().into_bytes();
            keyed(&key)
        };
        Self { present: derive(&secrets.present), accepted: secrets.accepted.as_ref().map(derive) }
    }

    /// Begins a new seal.
    pub fn begin(&self) -> Hmac<Sha256> {
        self.present.clone()
    }

    /// Whether a seal is good under any key that is: `is_good` is given the beginning of each.
    pub fn accept(&self, is_good: impl Fn(Hmac<Sha256>) -> bool) -> bool {
        is_good(self.present.clone()) || self.accepted.clone().is_some_and(is_good)
    }
}

/// The beginning of a hash under this key.
pub fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seals(present: &str, accepted: Option<&str>) -> Seals {
        let secret = |text: &str| SecretString::from(text.to_owned());
        Seals::derive(&Secrets { present: secret(present), accepted: accepted.map(secret) }, b"tests")
    }

    #[test]
    fn s10_seals_of_the_accepted_secret_are_good_and_new_ones_are_the_presents() {
        let seal = |seals: &Seals| seals.begin().chain_update(b"a thing").finalize().into_bytes();
        let is_good = |of: &Seals, by: &Seals| {
            let seal = seal(of);
            by.accept(|mac| mac.chain_update(b"a thing").verify(&seal).is_ok())
        };
        let (old, new, both) = (seals("old", None), seals("new", None), seals("new", Some("old")));
        assert!(is_good(&old, &both) && is_good(&new, &both) && is_good(&both, &new));
        assert!(!is_good(&both, &old) && !is_good(&old, &new));
    }
}
