//! As much of an HTTP client as set-up needs, and the reading of responses for the measuring loop.
//! Responses must carry `Content-Length`: nothing the bench asks for is sent in chunks.

use std::net::SocketAddr;
use std::ops::Range;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::source_address;
use crate::{Result, client};

/// The head of a `POST` with a JSON body of `length` bytes.
pub fn post_head(path: &str, host: &str, token: Option<&str>, length: usize) -> String {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{authorization}Content-Length: {length}\r\n\r\n"
    )
}

/// Where the parts of a response lie in the bytes read.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Its head, without the empty line.
    pub head: Range<usize>,
    /// Its body.
    pub body: Range<usize>,
    /// Where the next response begins.
    pub end: usize,
}

/// The first whole response of `buffer`; `None` until more has come.
pub fn first_response(buffer: &[u8]) -> Result<Option<Response>> {
    let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&buffer[..head])?;
    let status = text.get(9..12).and_then(|status| status.parse().ok()).ok_or("not an HTTP response")?;
    let length = header(text, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = head + 4..head + 4 + length;
    Ok((buffer.len() >= body.end).then_some(Response { status, head: 0..head, end: body.end, body }))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.split_once(':').filter(|(this, _)| this.eq_ignore_ascii_case(name));
    head.split("\r\n").find_map(value).map(|(_, value)| value.trim())
}

/// The headers of a response, without those every HTTP server writes itself.
pub fn headers(head: &str) -> Vec<(String, String)> {
    const OWN: [&str; 4] = ["content-length", "date", "connection", "transfer-encoding"];
    let pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .filter(|(name, _)| !OWN.contains(&name.as_str()))
        .collect()
}

/// A connection kept alive, for one request at a time.
pub struct Http {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Http {
    /// Connects from the `index`-th loopback address.
    pub async fn connect(address: SocketAddr, index: usize) -> Result<Self> {
        let stream = client::connect(address, source_address(index), None).await?;
        Ok(Self { stream, host: address.to_string(), buffer: Vec::new() })
    }

    /// The status of `GET path`.
    pub async fn get(&mut self, path: &str) -> Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        Ok(self.send(request.as_bytes()).await?.status)
    }

    /// The result of one call, or its error as text.
    pub async fn call(&mut self, method: &str, params: Value, token: Option<&str>) -> Result<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let head = post_head("/rpc", &self.host, token, body.len());
        let response = self.send(&[head.as_bytes(), body.as_bytes()].concat()).await?;
        let mut answer: Value = serde_json::from_slice(&self.buffer[response.body])?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(format!("{method}: {}", answer["error"]).into()),
        }
    }

    /// The headers of the response to a call, such as a reference must send too.
    pub async fn call_headers(&mut self, text: &str, token: &str) -> Result<Vec<(String, String)>> {
        let head = post_head("/rpc", &self.host, Some(token), text.len());
        let response = self.send(&[head.as_bytes(), text.as_bytes()].concat()).await?;
        Ok(headers(std::str::from_utf8(&self.buffer[response.head])?))
    }

    async fn send(&mut self, request: &[u8]) -> Result<Response> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server hung up".into());
            }
            if let Some(response) = first_response(&self.buffer)? {
                return Ok(response);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_only_when_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\r\n{}HTTP";
        assert!(first_response(&bytes[..bytes.len() - 5]).unwrap().is_none());
        let response = first_response(bytes).unwrap().unwrap();
        assert_eq!((response.status, &bytes[response.body]), (200, &b"{}"[..]));
        let head = std::str::from_utf8(&bytes[response.head]).unwrap();
        assert_eq!(headers(head), [("content-type".to_owned(), "application/json".to_owned())]);
    }
}
