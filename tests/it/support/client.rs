//! A WebSocket client that keeps answers and notifications apart.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{PASSWORD, PATIENCE};

/// A failed call.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub code: i64,
    pub message: String,
    pub data: Value,
}

/// One socket.
pub struct TestClient {
    ws: WebSocketStream<TcpStream>,
    next_id: u64,
    notifications: VecDeque<Value>,
    /// The token of the last register or login.
    pub token: String,
}

/// A user of this name, with the usual password and an address of its own.
fn newcomer(username: &str) -> Value {
    json!({"username": username, "email": format!("{username}@example.com"), "password": PASSWORD})
}

/// The result or error of a reply.
pub fn outcome(reply: Value) -> Result<Value, Failure> {
    match reply.get("error") {
        None => Ok(reply["result"].clone()),
        Some(error) => Err(Failure {
            code: error["code"].as_i64().expect("a code is a number"),
            message: error["message"].as_str().expect("a message is text").to_owned(),
            data: error["data"].clone(),
        }),
    }
}

impl TestClient {
    /// Opens a socket, with these headers beside the handshake's.
    pub async fn connect(address: SocketAddr, headers: &[(&str, &str)]) -> Self {
        Self::try_connect(address, headers).await.expect("the gateway upgrades")
    }

    /// Opens a socket, or tells the HTTP status that refused it.
    pub async fn try_connect(address: SocketAddr, headers: &[(&str, &str)]) -> Result<Self, u16> {
        let mut request = format!("ws://{address}/rpc").into_client_request().expect("a good URL");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a good name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a good value"));
        }
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        match client_async(request, stream).await {
            Ok((ws, _)) => Ok(Self { ws, next_id: 1, notifications: VecDeque::new(), token: String::new() }),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// Opens a socket with this token, or nothing where nobody answers.
    pub async fn reach(address: SocketAddr, token: &str) -> Option<Self> {
        let mut request = format!("ws://{address}/rpc").into_client_request().expect("a good URL");
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a good value");
        request.headers_mut().append("authorization", bearer);
        let stream = TcpStream::connect(address).await.ok()?;
        let (ws, _) = client_async(request, stream).await.ok()?;
        Some(Self { ws, next_id: 1, notifications: VecDeque::new(), token: token.to_owned() })
    }

    /// Registers `username` with the usual password and an address of its own; the socket is signed in.
    pub async fn register(&mut self, username: &str) -> Value {
        let signed_in = self.call("auth.register", newcomer(username)).await.expect("the name is free");
        self.token = signed_in["tokens"]["access_token"].as_str().expect("a token").to_owned();
        signed_in
    }

    /// Has an admin make the same user.
    pub async fn create(&mut self, username: &str) {
        self.call("users.create", newcomer(username)).await.expect("the name is free");
    }

    /// Logs in with the usual password.
    pub async fn login(&mut self, username: &str) -> Value {
        let params = json!({"login": username, "password": PASSWORD});
        let signed_in = self.call("auth.login", params).await.expect("the password is right");
        self.token = signed_in["tokens"]["access_token"].as_str().expect("a token").to_owned();
        signed_in
    }

    /// One call: its result or error. Notifications that come meanwhile are kept.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let call = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(call.to_string()).await;
        loop {
            let text = self.text().await;
            let reply: Value = serde_json::from_str(&text).expect("replies are JSON");
            if reply.get("id") == Some(&json!(id)) {
                return outcome(reply);
            }
            assert!(reply.get("method").is_some(), "an answer to nothing: {text}");
            self.notifications.push_back(reply);
        }
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: impl Into<String>) {
        self.send_message(Message::text(text.into())).await;
    }

    /// Sends any message.
    pub async fn send_message(&mut self, message: Message) {
        self.ws.send(message).await.expect("the socket is open");
    }

    /// The next text frame as JSON, or nothing once the socket has ended.
    pub async fn frame(&mut self) -> Option<Value> {
        match self.next().await? {
            Message::Text(text) => Some(serde_json::from_str(&text).expect("frames are JSON")),
            _ => None,
        }
    }

    /// Sends a call without waiting for its reply; false when the socket has ended.
    pub async fn begin(&mut self, method: &str, params: Value) -> bool {
        let call = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.next_id += 1;
        self.ws.send(Message::text(call.to_string())).await.is_ok()
    }

    /// The next text frame.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("expected a text frame, got {other:?}"),
        }
    }

    /// Sends a text and gives the next text frame.
    pub async fn exchange(&mut self, text: impl Into<String>) -> String {
        self.send(text).await;
        self.text().await
    }

    /// The next notification of this method, also one that came before.
    pub async fn notification(&mut self, method: &str) -> Value {
        loop {
            let next = match self.notifications.pop_front() {
                Some(kept) => kept,
                None => serde_json::from_str(&self.text().await).expect("frames are JSON"),
            };
            if next["method"] == method {
                return next["params"].clone();
            }
        }
    }

    /// The code and reason with which the gateway closes, passing over frames before it.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Some(Message::Close(Some(frame))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Message::Close(None)) => return (1005, String::new()),
                Some(_) => {}
                None => return (1006, String::new()),
            }
        }
    }

    /// Why the gateway revoked what signed the socket in, and the code with which it closed next.
    pub async fn revoked(&mut self) -> (String, u16) {
        let reason = self.notification("auth.revoked").await["reason"].as_str().expect("a word").to_owned();
        match self.next().await {
            Some(Message::Close(Some(frame))) => (reason, frame.code.into()),
            other => panic!("not the close that follows auth.revoked: {other:?}"),
        }
    }

    /// The next ping of the gateway, which is answered with the next that is sent or read.
    pub async fn ping(&mut self) {
        let pinged = async { while !matches!(self.ws.next().await.expect("it is open"), Ok(Message::Ping(_))) {} };
        tokio::time::timeout(PATIENCE, pinged).await.expect("the gateway pings in time");
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.ws.next()).await.expect("the gateway answers in time");
            match next {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }
}
