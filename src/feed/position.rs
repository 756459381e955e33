//! Places in the feed, as clients see them: opaque text that is never misread.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::{Position, StoreError};

/// Bytes of the check: a text with a wrong character passes once in 2^32.
const CHECK_BYTES: usize = 4;
/// The longest text that is looked at.
const MAX_CHARS: usize = 16 << 10;

/// How far a reader of the feed has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Everything at or below was delivered, in its newest state.
    #[serde(rename = "p")]
    pub position: Position,
    /// The numbers up to which no state was passed over, where these are lower: while older changes are read page by
    /// page, a state that was replaced already is not in its page, and its successor may be pages away.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Vec<u64>>,
}

impl Place {
    /// A place up to which everything is known.
    pub fn complete(position: Position) -> Self {
        Self { position, floor: None }
    }

    /// The numbers, per shard, up to which every state was delivered or judged.
    pub fn seen(&self) -> &[u64] {
        self.floor.as_deref().unwrap_or(&self.position.numbers)
    }

    /// The text for clients. Not secret and good on every node; the check only keeps a damaged one from being misread.
    pub fn encode(&self) -> String {
        Self::encode_bytes(&serde_json::to_vec(self).expect("a place is plain data"))
    }

    /// The text with this inside.
    pub(crate) fn encode_bytes(json: &[u8]) -> String {
        let mut bytes = check(json).to_vec();
        bytes.extend_from_slice(json);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place of a text. Errors: `BadPosition` for one that [`Place::encode`] did not write.
    pub fn decode(text: &str) -> Result<Self, StoreError> {
        if text.len() > MAX_CHARS {
            return Err(StoreError::BadPosition);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| StoreError::BadPosition)?;
        let json = match bytes.split_at_checked(CHECK_BYTES) {
            Some((given, json)) if given == check(json) => json,
            _ => return Err(StoreError::BadPosition),
        };
        let place: Self = serde_json::from_slice(json).map_err(|_| StoreError::BadPosition)?;
        if place.seen().len() == place.position.numbers.len() { Ok(place) } else { Err(StoreError::BadPosition) }
    }
}

fn check(json: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::digest(json);
    digest[..CHECK_BYTES].try_into().expect("SHA-256 is longer than the check")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_written_or_not_at_all() {
        let position = Position { history: "0123456789abcdef".to_owned(), numbers: vec![7, 1 << 60], former: None };
        for place in
            [Place::complete(position.clone()), Place { position: position.clone(), floor: Some(vec![3, 1 << 60]) }]
        {
            let text = place.encode();
            assert_eq!(Place::decode(&text), Ok(place));
            for at in 0..text.len() {
                let mut changed = text.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert_eq!(Place::decode(&changed), Err(StoreError::BadPosition), "{changed}");
                assert_eq!(Place::decode(&text[..at]), Err(StoreError::BadPosition));
            }
        }
        let uneven = Place { position, floor: Some(vec![1]) };
        assert_eq!(Place::decode(&uneven.encode()), Err(StoreError::BadPosition));
        assert_eq!(Place::decode(&"A".repeat(MAX_CHARS + 1)), Err(StoreError::BadPosition));
    }
}
