//! The keys of access tokens: one signs, and while it is changed others are good as well.
//!
//! Each key is good for one algorithm, which its tokens do not choose: they name the key.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use hmac::Mac;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::seals::keyed;

/// From which the identity of a shared secret is derived.
const KID_LABEL: &[u8] = b"doorward-kid";

/// A key, and the one algorithm that it is good for.
pub struct Key {
    kid: String,
    algorithm: Algorithm,
    signing: EncodingKey,
    verifying: DecodingKey,
    /// As a JWK; `None` for a shared secret.
    public: Option<Value>,
}

impl Key {
    /// HS256 by the bytes of a shared secret. Its `kid` is a keyed hash, which tells two secrets apart and reveals neither.
    pub fn hs256(secret: &SecretString) -> Self {
        let secret = secret.expose_secret().as_bytes();
        let digest = keyed(secret).chain_update(KID_LABEL).finalize().into_bytes();
        let kid = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let (signing, verifying) = (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret));
        Self { kid, algorithm: Algorithm::HS256, signing, verifying, public: None }
    }

    /// EdDSA by a private key. Its `kid` is the thumbprint of the public one (RFC 7638, RFC 8037 §2).
    pub fn ed25519(key: &SigningKey) -> Self {
        let public = key.verifying_key();
        let x = BASE64_URL_SAFE_NO_PAD.encode(public.as_bytes());
        // The members in this order are what the thumbprint is of.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        let kid = BASE64_URL_SAFE_NO_PAD.encode(thumbprint);
        let private = key.to_pkcs8_der().expect("a key can be written");
        Self {
            algorithm: Algorithm::EdDSA,
            signing: EncodingKey::from_ed_der(private.as_bytes()),
            verifying: DecodingKey::from_ed_der(public.as_bytes()),
            public: Some(json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": kid})),
            kid,
        }
    }
}

/// All keys whose tokens are good; the first one signs.
pub struct Keys(Vec<Key>);

impl Keys {
    /// One that signs, and those accepted besides.
    pub fn new(signing: Key, accepted: impl IntoIterator<Item = Key>) -> Self {
        let accepted = accepted.into_iter().filter(|key| key.kid != signing.kid).collect::<Vec<_>>();
        Self(std::iter::once(signing).chain(accepted).collect())
    }

    /// A signed token of this type (`typ`) that makes these claims.
    pub fn sign(&self, typ: &str, claims: &impl Serialize) -> String {
        let key = &self.0[0];
        let mut header = Header::new(key.algorithm);
        (header.typ, header.kid) = (Some(typ.to_owned()), Some(key.kid.clone()));
        jsonwebtoken::encode(&header, claims, &key.signing)
            .expect("claims can be written, and the key is its algorithm's")
    }

    /// Whether a message is signed, by the key and in the algorithm that its header names. `signature` is still encoded.
    pub fn verify(&self, kid: &str, alg: &str, message: &str, signature: &str) -> bool {
        let named = |key: &&Key| key.kid == kid && alg.parse::<Algorithm>().is_ok_and(|alg| alg == key.algorithm);
        self.0.iter().find(named).is_some_and(|key| {
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.verifying, key.algorithm).unwrap_or(false)
        })
    }

    /// The public ones, as a JWK set (RFC 7517 §5): whoever trusts the gateway verifies its tokens by them.
    pub fn jwk_set(&self) -> String {
        let keys: Vec<&Value> = self.0.iter().filter_map(|key| key.public.as_ref()).collect();
        json!({"keys": keys}).to_string()
    }
}

/// The private key that a file holds as PEM. Errors: what is wrong, and nothing of the content.
pub fn from_pem(text: &str) -> Result<SigningKey, String> {
    SigningKey::from_pkcs8_pem(text)
        .map_err(|_| "must hold an Ed25519 private key as of openssl genpkey -algorithm ed25519".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s10_the_kid_is_the_thumbprint_of_the_standards_example() {
        // RFC 8037, appendix A.
        let key = BASE64_URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let keys = Keys::new(Key::ed25519(&SigningKey::from_bytes(&key.try_into().unwrap())), None);
        let kid = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": kid});
        assert_eq!(serde_json::from_str::<Value>(&keys.jwk_set()).unwrap(), json!({"keys": [public]}));
    }

    #[test]
    fn s10_a_shared_secret_is_in_no_set() {
        assert_eq!(Keys::new(Key::hs256(&"a secret".to_owned().into()), None).jwk_set(), r#"{"keys":[]}"#);
    }
}
