//! Positions as clients see them: opaque text.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::store::Position;

/// The text of a position.
pub fn encode(position: &Position) -> String {
    let json = serde_json::to_vec(position).expect("a position is plain data");
    BASE64_URL_SAFE_NO_PAD.encode(json)
}
