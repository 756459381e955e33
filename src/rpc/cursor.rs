//! Cursors: where a page ended, sealed so that only the list that made it accepts it.
//!
//! The seal covers the method, filter, sort and rights of the list; a cursor of another list, of a caller
//! with other rights, or one that was changed is refused with 1401.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;

use super::error::RpcError;
use crate::auth::seals::{Seals, Secrets};
use crate::store::PageKey;

/// Bytes of the seal: a forgery succeeds once in 2^128.
const SEAL_BYTES: usize = 16;
/// The longest cursor that is looked at: a display name may fold to a multiple of its length.
const MAX_CHARS: usize = 16 << 10;

/// The key that seals cursors.
#[derive(Clone)]
pub struct CursorKey(Seals);

impl CursorKey {
    /// The key that belongs to the secrets. Its version goes with that of folding: a cursor holds folded text, and one that
    /// was folded otherwise names another place.
    pub fn derive(secrets: &Secrets) -> Self {
        Self(Seals::derive(secrets, b"doorward cursor v2"))
    }

    /// The cursor of the page behind `key` in the list that `scope` describes.
    pub fn seal(&self, scope: &impl Serialize, key: &PageKey) -> String {
        self.seal_bytes(scope, &serde_json::to_vec(key).expect("JSON values can be written"))
    }

    /// The cursor with this inside.
    pub(crate) fn seal_bytes(&self, scope: &impl Serialize, body: &[u8]) -> String {
        let seal = seal_of(self.0.begin(), scope, body).finalize().into_bytes();
        let mut bytes = seal[..SEAL_BYTES].to_vec();
        bytes.extend_from_slice(body);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The key that a cursor of this list holds, or `CursorInvalid`.
    pub fn open(&self, scope: &impl Serialize, cursor: &str) -> Result<PageKey, RpcError> {
        if cursor.len() > MAX_CHARS {
            return Err(RpcError::CursorInvalid);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| RpcError::CursorInvalid)?;
        let (seal, body) = bytes.split_at_checked(SEAL_BYTES).ok_or(RpcError::CursorInvalid)?;
        if !self.0.accept(|mac| seal_of(mac, scope, body).verify_truncated_left(seal).is_ok()) {
            return Err(RpcError::CursorInvalid);
        }
        serde_json::from_slice(body).map_err(|_| RpcError::CursorInvalid)
    }
}

fn seal_of(mac: Hmac<Sha256>, scope: &impl Serialize, body: &[u8]) -> Hmac<Sha256> {
    let scope = serde_json::to_vec(scope).expect("a scope is plain data");
    mac.chain_update((scope.len() as u64).to_be_bytes()).chain_update(&scope).chain_update(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(secret: &str) -> CursorKey {
        CursorKey::derive(&Secrets { present: secret.to_owned().into(), accepted: None })
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let key = key_of("a secret of at least thirty-two bytes");
        let page = PageKey(vec!["alice".into(), 7.into()]);
        let cursor = key.seal(&("users.list", "admin"), &page);
        assert_eq!(key.open(&("users.list", "admin"), &cursor).unwrap(), page);
        assert!(key.open(&("users.list", "user"), &cursor).is_err());
        assert!(key_of("another").open(&("users.list", "admin"), &cursor).is_err());
        for at in 0..cursor.len() {
            let mut changed = cursor.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(key.open(&("users.list", "admin"), &String::from_utf8(changed).unwrap()).is_err());
        }
    }
}
