//! What fuzzers feed with bytes (`fuzz/`), and a test with their corpus: the readers of all that comes from outside and is
//! no plain JSON. What is sealed or signed is tried as it is, and once more with a good seal, so that the reader behind
//! the seal is reached.

use std::str;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::Mac;
use secrecy::SecretString;
use serde_json::Value;

use crate::auth::keys::{Key, Keys};
use crate::auth::seals::{Secrets, keyed};
use crate::auth::token::{TokenError, TokenOptions, Tokens};
use crate::clock::Clock;
use crate::feed::position::Place;
use crate::rpc::cursor::CursorKey;
use crate::rpc::envelope::{self, Message};
use crate::users::filter::Filter;

/// Takes bytes as they come from outside, and says whether the reader accepts them.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name, which is that of its corpus.
pub const TARGETS: [(&str, Target); 5] =
    [("envelope", self::envelope), ("filter", filter), ("cursor", cursor), ("token", token), ("position", position)];

const SECRET: &str = "a secret that only fuzzers know, of 32 bytes";

/// Messages. What is read is what was written: ids and params are parts of the text.
pub fn envelope(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let members = match envelope::open(text, 50) {
        Ok(Message::Single(text)) => vec![text],
        Ok(Message::Batch(members)) => members.iter().map(|member| member.get()).collect(),
        Err(_) => return false,
    };
    let mut accepted = false;
    for member in members {
        match envelope::read(member) {
            Ok(request) => {
                accepted = true;
                let parts = request.id.into_iter().chain(request.params);
                parts.for_each(|part| assert!(member.contains(part), "{part}"));
            }
            Err(rejected) => assert!(rejected.id == "null" || member.contains(rejected.id)),
        }
    }
    accepted
}

/// Filters. One that is accepted is the same when it is read again.
pub fn filter(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice(bytes) else { return false };
    let read = Filter::parse(&json);
    match &read {
        Ok(_) => assert_eq!(Filter::parse(&json), read),
        Err(error) => assert!(error.path.starts_with("filter"), "{error}"),
    }
    read.is_ok()
}

/// Cursors. One that opens is sealed to the same again, but for floats.
pub fn cursor(bytes: &[u8]) -> bool {
    let key = CursorKey::derive(&Secrets { present: secret(), accepted: None });
    let scope = "scope";
    if let Ok(text) = str::from_utf8(bytes) {
        assert!(key.open(&scope, text).is_err(), "nobody can make a seal");
    }
    let Ok(page) = key.open(&scope, &key.seal_bytes(&scope, bytes)) else { return false };
    if !page.0.iter().any(has_float) {
        let again = key.open(&scope, &key.seal(&scope, &page));
        assert_eq!(again.ok(), Some(page));
    }
    true
}

/// Whether a number is there that is read to its last digit only when it has few, as a score of the stores does.
fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(members) => members.values().any(has_float),
        _ => false,
    }
}

/// Access tokens: the bytes as a token, and, up to a line feed, as header and claims of a signed one.
pub fn token(bytes: &[u8]) -> bool {
    let (issuer, audience) = ("doorward".to_owned(), "doorward".to_owned());
    let keys = Keys::new(Key::hs256(&secret()), None);
    let tokens =
        Tokens::new(TokenOptions { keys, issuer, audience, lifetime: Duration::from_secs(900) }, Clock::default());
    if let Ok(text) = str::from_utf8(bytes) {
        assert!(tokens.verify(text).is_err(), "nobody can sign");
    }
    let at = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (header, claims) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let signed = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = keyed(SECRET.as_bytes()).chain_update(&signed).finalize().into_bytes();
    let read = tokens.verify(&format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)));
    // One whose time is over was read to its end.
    !matches!(read, Err(TokenError::Invalid))
}

/// Positions. One that is read is written to one that is read alike.
pub fn position(bytes: &[u8]) -> bool {
    let texts = str::from_utf8(bytes).ok().map(str::to_owned).into_iter().chain([Place::encode_bytes(bytes)]);
    let mut accepted = false;
    for place in texts.filter_map(|text| Place::decode(&text).ok()) {
        assert_eq!(Place::decode(&place.encode()), Ok(place));
        accepted = true;
    }
    accepted
}

fn secret() -> SecretString {
    SECRET.to_owned().into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every input of a corpus, itself, cut short, and with each byte changed. Some are good, or little is reached.
    #[test]
    fn j06_readers_of_what_comes_from_outside_take_the_whole_corpus() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let inputs: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
            let accepted = inputs.iter().filter(|input| target(input)).count();
            assert!(accepted >= 3 && inputs.len() - accepted >= 3, "{name}: {accepted} of {} accepted", inputs.len());
            for input in inputs {
                for at in 0..input.len().min(400) {
                    target(&input[..at]);
                    let mut changed = input.clone();
                    changed[at] ^= 1 << (at % 8);
                    target(&changed);
                }
            }
        }
    }
}
