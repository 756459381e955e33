//! Parameters: one closed object a method, read by name, refused with the path of what is wrong.
//!
//! jsonrpsee's generated readers pass over unknown members and accept camelCase aliases, which the
//! contract forbids; so each method takes one [`Named`] struct that reads the whole object itself.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::closed::Closed;
use super::error::{FieldError, RpcError};
use crate::sessions::CallerUser;
use crate::users::Username;
use crate::users::user::Refusal;

/// The parameters of one call, or why they were refused.
#[derive(Debug)]
pub struct Named<T>(Result<T, RpcError>);

impl<T> Named<T> {
    /// The parameters, or `InvalidParams`.
    pub fn get(self) -> Result<T, RpcError> {
        self.0
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&'de RawValue>::deserialize(deserializer)?.get();
        let mut json = serde_json::Deserializer::from_str(text);
        Ok(Self(T::deserialize(Closed(&mut json)).map_err(|_| explain::<T>(text))))
    }
}

/// Reads refused parameters once more, keeping track of the path. Slower, and only for errors.
fn explain<T: DeserializeOwned>(text: &str) -> RpcError {
    let mut json = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(Closed(&mut json)) else { return RpcError::Internal };
    let mut path = match error.path().to_string() {
        root if root == "." => String::new(),
        path => path,
    };
    let message = error.inner().to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    // These two are found at the object; its member is told in the message alone.
    if message.starts_with("missing field") || message.starts_with("duplicate field") {
        let member = message.split('`').nth(1).unwrap_or_default();
        path = if path.is_empty() { member.to_owned() } else { format!("{path}.{member}") };
    }
    let rule = match message {
        _ if message.starts_with("unknown field") => "unknown_member",
        _ if message.starts_with("missing field") => "required",
        _ if message.starts_with("duplicate field") => "repeated",
        _ if message.starts_with("unknown variant") => "choice",
        _ if message.starts_with("invalid type") => "type",
        _ => "invalid",
    };
    // Checked types refuse with "rule: message".
    let (rule, message) = match message.split_once(": ") {
        Some((word, rest)) if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => (word, rest),
        _ => (rule, message),
    };
    RpcError::InvalidParams(vec![FieldError { path, rule: rule.to_owned(), message: message.to_owned() }])
}

/// Turns a refusal into a serde error that [`explain`] takes apart again.
fn refuse<E: serde::de::Error>(refusal: &Refusal) -> E {
    E::custom(format_args!("{}: {}", refusal.rule, refusal.message))
}

/// A user named by the caller: a checked name, or `me`.
#[derive(Debug, Clone)]
pub enum Who {
    /// The caller.
    Me,
    /// This user.
    Named(Username),
}

impl Who {
    /// The name meant. The permission table lets only signed-in callers come here.
    pub fn resolve(self, caller: &CallerUser) -> Result<Username, RpcError> {
        match self {
            Self::Named(username) => Ok(username),
            Self::Me => caller.user.as_ref().map(|user| user.username.clone()).ok_or(RpcError::Unauthenticated),
        }
    }
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        if text == "me" {
            return Ok(Self::Me);
        }
        Username::parse(&text).map(Self::Named).map_err(|refusal| refuse(&refusal))
    }
}

/// A value that may be absent, `null`, or given: a patch tells the three apart.
pub fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// A value that may be absent but not `null`.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Any JSON value in which no object gives a member twice.
#[derive(Debug, Clone, PartialEq)]
pub struct StrictJson(pub Value);

impl<'de> Deserialize<'de> for StrictJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(StrictJson(value)) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Value::Array(values))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = Map::new();
                while let Some((name, StrictJson(value))) = map.next_entry::<String, _>()? {
                    if members.contains_key(&name) {
                        return Err(refuse(&Refusal::new("repeated", format!("member {name:?} is given twice"))));
                    }
                    members.insert(name, value);
                }
                Ok(Value::Object(members))
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Example {
        who: Who,
        #[serde(default)]
        filter: Option<StrictJson>,
    }

    fn refused(text: &str) -> (String, String) {
        let named: Named<Example> = serde_json::from_str(text).unwrap();
        let Err(RpcError::InvalidParams(fields)) = named.get() else { panic!("accepted {text}") };
        (fields[0].path.clone(), fields[0].rule.clone())
    }

    #[test]
    fn a_refusal_names_the_path_and_the_rule() {
        let cases = [
            (r#"{}"#, "who", "required"),
            (r#"{"who":1}"#, "who", "type"),
            (r#"{"who":"al"}"#, "who", "length"),
            (r#"{"who":"alice","more":1}"#, "more", "unknown_member"),
            (r#"{"who":"alice","who":"bob"}"#, "who", "repeated"),
            (r#"{"who":"me","filter":{"a":{"b":1,"b":2}}}"#, "filter.a", "repeated"),
        ];
        for (text, path, rule) in cases {
            assert_eq!(refused(text), (path.to_owned(), rule.to_owned()), "{text}");
        }
    }
}
