//! App-defined attributes: JSON that is checked and kept, but never understood.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::user::Refusal;

/// The most that the attributes may take as compact JSON, in bytes.
pub const ATTRIBUTES_MAX_BYTES: usize = 4096;

/// App-defined JSON members of a user: an object of at most 4 KiB as compact JSON. Kept as that text: many small values
/// take many times their JSON in memory, and numbers keep the digits that they were given with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(Arc<RawValue>);

impl Attributes {
    /// The object as compact JSON.
    pub fn json(&self) -> &str {
        self.0.get()
    }

    /// Checks a JSON value and brings it to one form: without blanks, members in the order of their names, texts with
    /// the escapes that they need. Numbers stay as they are written: `1`, `1.0` and `1e0` are three values.
    pub fn parse(json: &RawValue) -> Result<Self, Refusal> {
        if !json.get().starts_with('{') {
            return Err(Refusal::new("type", "must be a JSON object"));
        }
        let mut compact = String::new();
        write(json, &mut compact)?;
        if compact.len() > ATTRIBUTES_MAX_BYTES {
            return Err(Refusal::new("length", "must take at most 4096 bytes as compact JSON"));
        }
        Ok(Self(RawValue::from_string(compact).expect("what was written is JSON").into()))
    }
}

impl Default for Attributes {
    /// No members.
    fn default() -> Self {
        Self(RawValue::from_string("{}".to_owned()).expect("this is JSON").into())
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Appends a value in its one form. Nesting is bounded by the envelope.
fn write(json: &RawValue, out: &mut String) -> Result<(), Refusal> {
    let unread = |_| Refusal::new("invalid", "is not JSON that can be kept");
    match json.get().as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(json.get()).map_err(unread)?;
            let mut sorted = BTreeMap::new();
            for (name, value) in members {
                match sorted.entry(name) {
                    Entry::Vacant(entry) => drop(entry.insert(value)),
                    Entry::Occupied(entry) => {
                        return Err(Refusal::new("repeated", format!("member {:?} is given twice", entry.key())));
                    }
                }
            }
            out.push('{');
            for (at, (name, value)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(&name));
                out.push(':');
                write(value, out).map_err(|refusal| refusal.inside(&format!(".{name}")))?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(unread)?;
            out.push('[');
            for (at, value) in values.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(value, out).map_err(|refusal| refusal.inside(&format!("[{at}]")))?;
            }
            out.push(']');
        }
        Some(b'"') => out.push_str(&quoted(&serde_json::from_str::<String>(json.get()).map_err(unread)?)),
        _ => out.push_str(json.get()),
    }
    Ok(())
}

/// A text as JSON, with no more escapes than needed.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written")
}

/// The members of an object as they are given, repeated ones too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, Refusal> {
        Attributes::parse(serde_json::from_str(text).unwrap()).map(|attributes| attributes.0.get().to_owned())
    }

    #[test]
    fn values_are_brought_to_one_form_and_numbers_are_left_alone() {
        for (given, kept) in [
            ("{ }", "{}"),
            (
                r#"{"b" : [ 1.0 , 1e2, -0, 1 ], "a": {"y":null ,"x":true}}"#,
                r#"{"a":{"x":true,"y":null},"b":[1.0,1e2,-0,1]}"#,
            ),
            (r#"{"\u0061":"\u00e9\n\u0001\/"}"#, "{\"a\":\"é\\n\\u0001/\"}"),
            (
                r#"{"n":123456789012345678901234567890.0000000001E+400}"#,
                r#"{"n":123456789012345678901234567890.0000000001E+400}"#,
            ),
        ] {
            assert_eq!(parse(given).as_deref(), Ok(kept), "{given}");
        }
    }

    #[test]
    fn what_is_refused_is_told_with_its_place() {
        for (given, rule, within) in [
            ("[]", "type", ""),
            (r#"{"a":1,"a":1}"#, "repeated", ""),
            (r#"{"a":[1,{"b":1,"\u0062":2}]}"#, "repeated", ".a[1]"),
            (r#"{"a":"\ud800"}"#, "invalid", ".a"),
        ] {
            let refusal = parse(given).unwrap_err();
            assert_eq!((refusal.rule, refusal.within.as_str()), (rule, within), "{given}");
        }
        assert_eq!(parse(&format!(r#"{{"a":"{}"}}"#, "x".repeat(4_089))).unwrap_err().rule, "length");
        assert!(parse(&format!(r#"{{"a": "{}"}}"#, "x".repeat(4_088))).is_ok());
    }
}
