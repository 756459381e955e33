//! The JSON-RPC 2.0 envelope, read without copying and answered with the exact text of its id.
//!
//! Our own, because a general one loses what the contract promises: jsonrpsee's leaves ids such as `-1` or
//! `1.5` unanswered and accepts a member given twice.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::RpcError;

/// How deep arrays and objects may nest in one message.
pub const MAX_DEPTH: usize = 64;

/// What may stand between the parts of JSON.
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// The exact text of a legal id: a string, a number or `null`.
pub type Id<'a> = &'a str;

/// What a message holds.
#[derive(Debug)]
pub enum Message<'a> {
    /// One call or notification.
    Single(&'a str),
    /// The members of a batch, each still to be read.
    Batch(Vec<&'a RawValue>),
}

/// One call or, without an id, one notification.
#[derive(Debug)]
pub struct Request<'a> {
    /// `None` for a notification: nothing is answered.
    pub id: Option<Id<'a>>,
    /// The method's name.
    pub method: Cow<'a, str>,
    /// The text of the params, an object or an array that holds something; `None` when absent.
    pub params: Option<&'a str>,
}

/// A request that cannot be dispatched, with the id to answer under.
#[derive(Debug)]
pub struct Rejected<'a> {
    /// The id where it could be read, else `null`.
    pub id: Id<'a>,
    /// Why.
    pub error: RpcError,
}

/// Tells a single request from a batch. Checks nesting first, so that no parser recurses on hostile text.
///
/// Errors: `Parse`; `InvalidRequest` for an empty batch; `BatchTooLarge`.
pub fn open(text: &str, max_batch: usize) -> Result<Message<'_>, RpcError> {
    if too_deep(text) {
        return Err(RpcError::Parse("The message is nested more than 64 levels deep."));
    }
    if !text.trim_start_matches(BLANKS).starts_with('[') {
        return Ok(Message::Single(text));
    }
    let members: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| not_json())?;
    if members.is_empty() {
        return Err(RpcError::InvalidRequest("A batch must hold at least one call."));
    }
    if members.len() > max_batch {
        return Err(RpcError::BatchTooLarge);
    }
    Ok(Message::Batch(members))
}

/// Reads one request.
pub fn read(text: &str) -> Result<Request<'_>, Rejected<'_>> {
    let mut members = Members::default();
    if let Err(error) = each_member(text, |name, value| members.put(name, value)) {
        return Err(Rejected { id: "null", error: no_object(&error, text, "A request must be a JSON object.") });
    }
    let id = match members.id.map(RawValue::get) {
        None => None,
        Some(id) if is_legal_id(id) => Some(id),
        Some(_) => return reject("null", "The id must be a string, a number or null."),
    };
    let answer_to = id.unwrap_or("null");
    if members.repeated {
        return reject(answer_to, "A member of the request is given twice.");
    }
    if members.jsonrpc.map(RawValue::get) != Some("\"2.0\"") {
        return reject(answer_to, "The member jsonrpc must be \"2.0\".");
    }
    let Some(method) = members.method.and_then(|method| text_of(method.get())) else {
        return reject(answer_to, "The member method must be a string.");
    };
    let params = match members.params.map(RawValue::get) {
        // Several libraries send one of these where a method takes none.
        None | Some("null") => None,
        Some(params) if is_empty_array(params) => None,
        Some(params) if params.starts_with(['{', '[']) => Some(params),
        Some(_) => return reject(answer_to, "The member params must be an object."),
    };
    Ok(Request { id, method, params })
}

/// The members of the one object that a text is, as they are written: each name, and its value. Checks nesting first.
///
/// Errors: `Parse`; `InvalidRequest` for other JSON.
pub fn members(text: &str) -> Result<Vec<(&RawValue, &RawValue)>, RpcError> {
    if too_deep(text) {
        return Err(RpcError::Parse("The body is nested more than 64 levels deep."));
    }
    let mut members = Vec::new();
    each_member(text, |name, value| members.push((name, value)))
        .map_err(|error| no_object(&error, text, "The body must be a JSON object."))?;
    Ok(members)
}

/// Why a text could not be read as one object: it is other JSON, or not even that. The reader stops before it has seen the
/// rest.
fn no_object(error: &serde_json::Error, text: &str, why: &'static str) -> RpcError {
    match error.is_data() && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        true => RpcError::InvalidRequest(why),
        false => not_json(),
    }
}

fn reject<'a>(id: Id<'a>, why: &'static str) -> Result<Request<'a>, Rejected<'a>> {
    Err(Rejected { id, error: RpcError::InvalidRequest(why) })
}

fn not_json() -> RpcError {
    RpcError::Parse("The message is not JSON.")
}

fn is_legal_id(text: &str) -> bool {
    text == "null" || text.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

fn is_empty_array(json: &str) -> bool {
    let inside = json.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| inside.trim_matches(BLANKS).is_empty())
}

/// The value of a JSON string; `None` for what is no string, or no Unicode.
pub fn text_of(json: &str) -> Option<Cow<'_, str>> {
    if json.contains('\\') {
        return serde_json::from_str(json).ok().map(Cow::Owned);
    }
    json.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed)
}

/// Whether arrays and objects nest deeper than [`MAX_DEPTH`]; brackets inside strings do not count.
fn too_deep(text: &str) -> bool {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The members of a request object; members of other names are passed over.
#[derive(Default)]
struct Members<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    /// One of the four was given more than once.
    repeated: bool,
}

impl<'a> Members<'a> {
    fn put(&mut self, name: &'a RawValue, value: &'a RawValue) {
        let slot = match text_of(name.get()).as_deref() {
            Some("jsonrpc") => &mut self.jsonrpc,
            Some("id") => &mut self.id,
            Some("method") => &mut self.method,
            Some("params") => &mut self.params,
            _ => return,
        };
        self.repeated |= slot.replace(value).is_some();
    }
}

/// Hands over each member of the one object that a text is. No name and no value is looked into: what is wrong inside is
/// told where it matters.
fn each_member<'a>(text: &'a str, each: impl FnMut(&'a RawValue, &'a RawValue)) -> serde_json::Result<()> {
    struct Object<F>(F);

    impl<'de, F: FnMut(&'de RawValue, &'de RawValue)> Visitor<'de> for Object<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry()? {
                (self.0)(name, value);
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Object(each))?;
    json.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_read_with_the_exact_text_of_its_id() {
        for id in ["1", "1.0", "1e2", "-1", "1.5", "null", "\"a\\u0062\"", "123456789012345678901234567890"] {
            let text = format!(r#"{{"jsonrpc":"2.0", "id" : {id} ,"method":"system.ping"}}"#);
            assert_eq!(read(&text).unwrap().id, Some(id));
        }
        assert_eq!(read(r#"{"jsonrpc":"2.0","method":"system.ping"}"#).unwrap().id, None);
    }

    #[test]
    fn a_broken_request_is_rejected_under_the_id_that_could_be_read() {
        let cases = [
            (r#"{"jsonrpc":"2.0","id":7}"#, "7", -32600),
            (r#"{"jsonrpc":"1.0","id":"x","method":"m"}"#, "\"x\"", -32600),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, "null", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, "2", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":false}"#, "1", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800","\ud800":1}"#, "1", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"bar"}"#, "1", -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":1}"#, "1", -32600),
            ("17", "null", -32600),
            ("17 and more", "null", -32700),
            ("\"text\" }", "null", -32700),
            (r#"{"jsonrpc":"2.0","id":1,"method""#, "null", -32700),
            ("\u{feff}{}", "null", -32700),
        ];
        for (text, id, code) in cases {
            let rejected = read(text).unwrap_err();
            assert_eq!((rejected.id, rejected.error.code()), (id, code), "{text}");
        }
    }

    #[test]
    fn params_that_hold_nothing_are_absent() {
        for (params, read_as) in
            [("null", None), ("[]", None), ("[ \n]", None), ("{}", Some("{}")), ("[[]]", Some("[[]]"))]
        {
            let text = format!(r#"{{"jsonrpc":"2.0","method":"m","params":{params}}}"#);
            assert_eq!(read(&text).unwrap().params, read_as, "{params}");
        }
    }

    #[test]
    fn members_are_handed_over_as_they_are_written() {
        let text = r#"{"a":1e400,"\ud800":"\ud800","a":[ ]}"#;
        let read: Vec<_> = members(text).unwrap().iter().map(|(name, value)| (name.get(), value.get())).collect();
        assert_eq!(read, [("\"a\"", "1e400"), ("\"\\ud800\"", "\"\\ud800\""), ("\"a\"", "[ ]")]);
        for (text, code) in [("[]", -32600), ("7 8", -32700), ("{", -32700), ("{} {}", -32700)] {
            assert_eq!(members(text).unwrap_err().code(), code, "{text}");
        }
    }

    #[test]
    fn nesting_is_counted_outside_strings_only() {
        assert!(!too_deep(&"[".repeat(64)));
        assert!(too_deep(&"[".repeat(65)));
        assert!(!too_deep(&format!("\"{}\\\"{}\"", "[".repeat(65), "[".repeat(65))));
    }

    #[test]
    fn a_batch_is_bounded_and_never_empty() {
        assert!(matches!(open("[1,2]", 2), Ok(Message::Batch(members)) if members.len() == 2));
        assert!(matches!(open("[1,2,3]", 2), Err(RpcError::BatchTooLarge)));
        assert!(matches!(open(" []", 2), Err(RpcError::InvalidRequest(_))));
        assert!(matches!(open("[1", 2), Err(RpcError::Parse(_))));
    }

    proptest! {
        #[test]
        fn j02_every_legal_id_comes_back_as_it_was_written(id in r#"(-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,10})?([eE][+-]?[0-9]{1,3})?|"([a-z ]|\\n|\\u00e9|é)*"|null)"#) {
            let text = format!(r#"{{"method":"m","id":{id},"jsonrpc":"2.0"}}"#);
            prop_assert_eq!(read(&text).unwrap().id, Some(id.as_str()));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = open(&text, 50);
            let _ = read(&text);
        }
    }
}
