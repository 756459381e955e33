//! Calls and answers as bytes: what goes on the wire is made once, before the clock runs, and only the id changes.
//!
//! Every call carries an id of ten digits, so that every call and every answer of one user has one length, and an
//! answer is checked by comparing it with the first one, which was read as JSON.

use std::ops::Range;

use crate::Result;
use crate::http;

/// The smallest id used. All ids have as many digits as this one.
pub const FIRST_ID: u64 = 1_000_000_000;
const ID_DIGITS: usize = 10;

/// RFC 6455 wants client frames masked. Any key will do; it must not be zero, or unmasking might come free.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How messages travel on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// Text frames.
    WebSocket,
    /// One `POST /rpc` a call, connection kept alive.
    Http,
}

/// The JSON text of one call with the id `FIRST_ID`; `params` is JSON.
pub fn call_text(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{FIRST_ID},"method":"{method}","params":{params}}}"#)
}

/// One call as it goes on the wire, all but its id.
pub struct Call {
    bytes: Vec<u8>,
    id_at: usize,
    /// The mask bytes that lie over the id, or zeros.
    id_mask: [u8; ID_DIGITS],
}

impl Call {
    /// A masked text frame.
    pub fn frame(text: &str) -> Self {
        let mut bytes = Vec::new();
        let head = push_masked(&mut bytes, 1, text.as_bytes());
        let at = id_position(text.as_bytes()).expect("a call text holds FIRST_ID");
        Self { bytes, id_at: head + at, id_mask: std::array::from_fn(|digit| MASK[(at + digit) % 4]) }
    }

    /// A whole `POST /rpc`.
    pub fn post(text: &str, host: &str, token: &str) -> Self {
        let head = http::post_head("/rpc", host, Some(token), text.len());
        let at = id_position(text.as_bytes()).expect("a call text holds FIRST_ID");
        Self { id_at: head.len() + at, bytes: [head.as_bytes(), text.as_bytes()].concat(), id_mask: [0; ID_DIGITS] }
    }

    /// Appends the call with this id, which must have ten digits.
    pub fn write(&self, id: u64, out: &mut Vec<u8>) {
        let start = out.len() + self.id_at;
        out.extend_from_slice(&self.bytes);
        let mut rest = id;
        for digit in (0..ID_DIGITS).rev() {
            out[start + digit] = (b'0' + (rest % 10) as u8) ^ self.id_mask[digit];
            rest /= 10;
        }
    }
}

/// The answer a connection must get to every call: these bytes around the id.
#[derive(Clone, Default)]
pub struct Answer {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Answer {
    /// From the answer to a call with `FIRST_ID`.
    pub fn from_first(text: &[u8]) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_slice(text)?;
        if value.get("result").is_none() {
            return Err(format!("not a result: {value}").into());
        }
        let at = id_position(text).ok_or_else(|| format!("an answer without the id: {value}"))?;
        Ok(Self { before: text[..at].to_vec(), after: text[at + ID_DIGITS..].to_vec() })
    }

    /// The id, if the rest is right to the last byte.
    pub fn id_in(&self, text: &[u8]) -> Option<u64> {
        let digits = text.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        if digits.len() != ID_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(digits.iter().fold(0, |id, digit| id * 10 + u64::from(digit - b'0')))
    }

    /// The answer with the id of the given call text: what a reference loop sends.
    pub fn to(&self, call: &[u8]) -> Vec<u8> {
        const ID_OF_A_CALL: usize = r#"{"jsonrpc":"2.0","id":"#.len();
        let id = call.get(ID_OF_A_CALL..ID_OF_A_CALL + ID_DIGITS).unwrap_or(b"0000000000");
        let mut text = Vec::with_capacity(self.before.len() + ID_DIGITS + self.after.len());
        text.extend_from_slice(&self.before);
        text.extend_from_slice(id);
        text.extend_from_slice(&self.after);
        text
    }
}

fn id_position(text: &[u8]) -> Option<usize> {
    let id = FIRST_ID.to_string();
    text.windows(ID_DIGITS).position(|digits| digits == id.as_bytes())
}

/// What a server sent.
pub enum Message<'a> {
    /// The text of a frame, or the body of a response.
    Text(&'a [u8]),
    /// A ping with its payload; the server hangs up on who does not answer.
    Ping(&'a [u8]),
    /// A pong: nobody asked, nothing to do.
    Pong,
    /// A close frame: code and reason.
    Close(u16, &'a [u8]),
}

/// The first whole message of `buffer` and the bytes it takes; `None` until more has come.
pub fn first_message(carrier: Carrier, buffer: &[u8]) -> Result<Option<(Message<'_>, usize)>> {
    match carrier {
        Carrier::WebSocket => first_frame(buffer),
        Carrier::Http => Ok(match http::first_response(buffer)? {
            Some(response) if response.status == 200 => Some((Message::Text(&buffer[response.body]), response.end)),
            Some(response) => {
                return Err(format!("HTTP {}: {}", response.status, String::from_utf8_lossy(buffer)).into());
            }
            None => None,
        }),
    }
}

fn first_frame(buffer: &[u8]) -> Result<Option<(Message<'_>, usize)>> {
    let Some(payload) = frame_payload(buffer) else { return Ok(None) };
    let Some(bytes) = buffer.get(payload.clone()) else { return Ok(None) };
    let message = match buffer[0] {
        0x81 => Message::Text(bytes),
        0x89 => Message::Ping(bytes),
        0x8a => Message::Pong,
        0x88 if bytes.len() >= 2 => Message::Close(u16::from_be_bytes([bytes[0], bytes[1]]), &bytes[2..]),
        0x88 => Message::Close(1005, b""),
        other => return Err(format!("a frame this bench does not expect: {other:#04x}").into()),
    };
    Ok(Some((message, payload.end)))
}

/// Where the payload of an unmasked frame lies (RFC 6455, section 5.2); `None` until the head is complete.
fn frame_payload(buffer: &[u8]) -> Option<Range<usize>> {
    let (start, length) = match *buffer.get(1)? {
        126 => (4, u64::from(u16::from_be_bytes([*buffer.get(2)?, *buffer.get(3)?]))),
        127 => (10, u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    Some(start..start + usize::try_from(length).ok()?)
}

/// Appends the pong to a ping.
pub fn push_pong(out: &mut Vec<u8>, payload: &[u8]) {
    push_masked(out, 10, payload);
}

/// Appends a masked frame and returns the length of its head.
fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) -> usize {
    let start = out.len();
    out.push(0x80 | opcode);
    match payload.len() {
        short @ ..126 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(long).expect("calls stay under 64 KiB").to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let head = out.len() - start;
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_written_under_the_mask() {
        let text = call_text("users.get", r#"{"username":"me"}"#);
        let mut sent = Vec::new();
        Call::frame(&text).write(FIRST_ID + 234, &mut sent);
        let unmasked: Vec<u8> = sent[6..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(String::from_utf8(unmasked).unwrap(), text.replace("1000000000", "1000000234"));
    }

    #[test]
    fn an_answer_with_another_byte_is_not_the_answer() {
        let answer = Answer::from_first(br#"{"jsonrpc":"2.0","result":{"rev":1},"id":1000000000}"#).unwrap();
        assert_eq!(answer.id_in(br#"{"jsonrpc":"2.0","result":{"rev":1},"id":1000000007}"#), Some(FIRST_ID + 7));
        assert_eq!(answer.id_in(br#"{"jsonrpc":"2.0","result":{"rev":2},"id":1000000007}"#), None);
        assert_eq!(answer.id_in(br#"{"jsonrpc":"2.0","result":{"rev":1},"id":10000000070}"#), None);
        assert!(Answer::from_first(br#"{"jsonrpc":"2.0","error":{},"id":1000000000}"#).is_err());
    }

    #[test]
    fn a_reference_answers_with_the_id_of_the_call() {
        let answer = Answer::from_first(br#"{"id":1000000000,"result":{}}"#).unwrap();
        let call = call_text("users.get", "{}").replace("1000000000", "1000000042");
        assert_eq!(answer.id_in(&answer.to(call.as_bytes())), Some(FIRST_ID + 42));
    }

    #[test]
    fn frames_are_read_only_when_whole() {
        let mut frame = vec![0x81, 126, 0, 200];
        frame.extend([b'x'; 200]);
        for end in 0..frame.len() {
            assert!(first_message(Carrier::WebSocket, &frame[..end]).unwrap().is_none());
        }
        let (message, used) = first_message(Carrier::WebSocket, &frame).unwrap().unwrap();
        assert!(matches!(message, Message::Text(text) if text.len() == 200));
        assert_eq!(used, frame.len());
    }
}
