//! `doorward watch`: prints users as they change, reconnects and goes on where it was by itself.
//!
//! It speaks the public protocol only. Every change is printed at least once; the position in each line of JSON can be
//! given to `--since` by whoever starts it again.

mod dial;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::output;
use dial::{Dial, Socket};

/// The gateway is taken for gone when it has been silent for as long as its pings are apart, and this much longer.
const SILENCE_MARGIN: Duration = Duration::from_secs(35);
/// How far apart they are until it has said so.
const PING: Duration = Duration::from_secs(25);
/// For a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause before connecting again; each further one may be twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Who watches.
pub enum Credentials {
    /// An access token: good until it expires.
    Token(SecretString),
    /// A username or address with its password: good for ever.
    Login(String, SecretString),
}

/// What to watch, and how to tell.
pub struct Options {
    /// `ws://HOST:PORT/rpc`, or `wss://` where a proxy speaks TLS; `http` and `https` mean the same.
    pub url: String,
    /// A file of certificates (PEM) of an authority that is trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Who watches.
    pub credentials: Credentials,
    /// As in `users.subscribe`; null is everybody.
    pub filter: Value,
    /// A position or `start`; `None` is from now.
    pub since: Option<String>,
    /// One line of JSON a change, rather than text.
    pub json: bool,
}

/// Why a connection ended.
enum End {
    /// Another may do better, after this pause if one was asked for.
    Lost(String, Option<Duration>),
    /// Another would not: one line that says why.
    Refused(String),
    /// Nobody reads what is printed any more.
    Unread,
}

impl End {
    /// The same, where the next connection begins with what was refused and has another way.
    fn another_may_help(self) -> Self {
        match self {
            Self::Refused(why) => Self::Lost(why, None),
            end => end,
        }
    }
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) if response.status().is_client_error() => {
                match response.status().as_u16() {
                    429 => Self::Lost("too many connections".to_owned(), None),
                    status => Self::Refused(format!("the gateway refuses the connection with {status}")),
                }
            }
            tungstenite::Error::Protocol(ProtocolError::HttparseError(_)) => {
                Self::Refused("what answers does not speak HTTP; with TLS the URL is wss://".to_owned())
            }
            error => Self::Lost(error.to_string(), None),
        }
    }
}

/// A line was not printed. That is the end in any case: to go on would pass over a change.
impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Refused(output::not_written(error)),
        }
    }
}

/// What goes on from one connection to the next.
struct Watch {
    options: Options,
    /// Of the session that a login has begun: it goes on as long as the gateway lets it.
    refresh_token: Option<SecretString>,
}

impl Watch {
    /// Keeps the refresh token of new tokens, and gives the parameters that sign in with the other one.
    fn take(&mut self, mut tokens: Value) -> Value {
        if let Value::String(token) = tokens["refresh_token"].take() {
            self.refresh_token = Some(token.into());
        }
        json!({"access_token": tokens["access_token"].take()})
    }
}

/// One connection.
struct Connection {
    ws: Socket,
    next_id: u64,
    /// How far apart the gateway's pings are.
    ping: Duration,
    /// The call that asks for new tokens, while it is under way.
    refreshing: Option<u64>,
    /// Asked for by a gateway that goes away.
    reconnect_after: Option<Duration>,
}

/// Prints changes until the output is closed. Errors: one line, when connecting again would not help.
pub async fn run(options: Options) -> Result<(), String> {
    let dial = Dial::new(&options.url, options.ca_file.as_deref())?;
    let mut watch = Watch { options, refresh_token: None };
    let mut failures = 0_u32;
    loop {
        let before = watch.options.since.clone();
        match connect(&dial, &mut watch).await {
            End::Unread => return Ok(()),
            End::Refused(why) => return Err(why),
            End::Lost(why, asked) => {
                failures = if watch.options.since == before { failures + 1 } else { 0 };
                let longest = PAUSE.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX);
                let pause = asked.unwrap_or_else(|| longest.mul_f64(rand::random_range(0.1..=1.0)));
                output::tell(format_args!("{why}; connecting again"));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Connects once and prints what comes, moving `since` along.
async fn connect(dial: &Dial, watch: &mut Watch) -> End {
    let mut connection = match tokio::time::timeout(CONNECT_TIMEOUT, dial.open()).await {
        Ok(Ok(ws)) => Connection { ws, next_id: 1, ping: PING, refreshing: None, reconnect_after: None },
        Ok(Err(end)) => return end,
        Err(_) => return End::Lost("no answer".to_owned(), None),
    };
    match connection.follow(watch).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

impl Connection {
    /// Signs in, subscribes, and prints until the end.
    async fn follow(&mut self, watch: &mut Watch) -> Result<std::convert::Infallible, End> {
        self.sign_in(watch).await?;
        self.ping = ping(&self.call("system.info", json!({})).await?);
        let params = json!({"filter": watch.options.filter, "since": watch.options.since});
        let subscribed = self.call("users.subscribe", params).await?;
        // From now on: known even when nothing is told before the connection is lost.
        watch.options.since = subscribed["position"].as_str().map(str::to_owned);
        loop {
            let mut frame = self.frame().await?;
            let params = &frame["params"];
            match frame["method"].as_str() {
                Some("users.changed") => {
                    print(params, watch.options.json)?;
                    watch.options.since = params["position"].as_str().map(str::to_owned);
                }
                Some("auth.expiring") => {
                    if let Some(token) = &watch.refresh_token {
                        let params = json!({"refresh_token": token.expose_secret()});
                        self.refreshing = Some(self.begin("auth.refresh", params).await?);
                    }
                }
                Some("system.draining") => {
                    self.reconnect_after = params["reconnect_after_ms"].as_u64().map(Duration::from_millis);
                }
                _ if self.refreshing.take_if(|id| frame["id"] == *id).is_some() => {
                    check(&frame).map_err(End::another_may_help)?;
                    let params = watch.take(frame["result"]["tokens"].take());
                    self.begin("auth.authenticate", params).await?;
                }
                // Signing in again was answered, or something that a newer gateway tells.
                _ => check(&frame)?,
            }
        }
    }

    /// Signs in: after a login of before, by the refresh token, unless its session has ended.
    async fn sign_in(&mut self, watch: &mut Watch) -> Result<(), End> {
        if let Some(token) = &watch.refresh_token {
            let refreshed = self.call("auth.refresh", json!({"refresh_token": token.expose_secret()})).await;
            match refreshed {
                Ok(mut refreshed) => {
                    let params = watch.take(refreshed["tokens"].take());
                    return self.call("auth.authenticate", params).await.map(drop);
                }
                Err(End::Refused(_)) => watch.refresh_token = None,
                Err(end) => return Err(end),
            }
        }
        match &watch.options.credentials {
            Credentials::Token(token) => {
                self.call("auth.authenticate", json!({"access_token": token.expose_secret()})).await?;
            }
            Credentials::Login(login, password) => {
                let params = json!({"login": login, "password": password.expose_secret(), "device": "doorward watch"});
                let mut signed_in = self.call("auth.login", params).await?;
                watch.take(signed_in["tokens"].take());
            }
        }
        Ok(())
    }

    /// One call before there is a subscription: its result.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value, End> {
        let id = self.begin(method, params).await?;
        loop {
            let mut frame = self.frame().await?;
            if frame["id"] == id {
                check(&frame)?;
                return Ok(frame["result"].take());
            }
        }
    }

    async fn begin(&mut self, method: &str, params: Value) -> Result<u64, End> {
        let id = self.next_id;
        self.next_id += 1;
        let call = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.ws.send(Message::text(call.to_string())).await?;
        Ok(id)
    }

    /// The next text frame.
    async fn frame(&mut self) -> Result<Value, End> {
        loop {
            let next = tokio::time::timeout(self.ping + SILENCE_MARGIN, self.ws.next()).await;
            let next = next.map_err(|_| End::Lost("the gateway is silent".to_owned(), None))?;
            match next.transpose()? {
                Some(Message::Text(text)) => {
                    let bad = |_| End::Refused("this is not a Doorward gateway".to_owned());
                    return serde_json::from_str(&text).map_err(bad);
                }
                Some(Message::Close(Some(frame))) => {
                    let code = u16::from(frame.code);
                    let why = format!("closed with {code} {}", frame.reason);
                    // The protocol's rule: these are not helped by coming back.
                    let refused = (4500..5000).contains(&code);
                    return Err(if refused { End::Refused(why) } else { End::Lost(why, self.reconnect_after) });
                }
                Some(_) => {}
                None => return Err(End::Lost("the connection is lost".to_owned(), self.reconnect_after)),
            }
        }
    }
}

/// How far apart a gateway's pings are, as it says itself.
fn ping(info: &Value) -> Duration {
    info["limits"]["ping_seconds"].as_u64().map_or(PING, Duration::from_secs)
}

/// Whether a reply is an error, and of which kind.
fn check(frame: &Value) -> Result<(), End> {
    let Some(error) = frame.get("error") else { return Ok(()) };
    let message = error["message"].as_str().unwrap_or("refused").to_owned();
    let wait = error["data"]["retry_after_ms"].as_u64().map(Duration::from_millis);
    Err(if error["data"]["retryable"] == true { End::Lost(message, wait) } else { End::Refused(message) })
}

/// One line for one change.
fn print(params: &Value, as_json: bool) -> std::io::Result<()> {
    if as_json {
        return output::say(params);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (at, user, kind) = (text(&params["at"]), &params["user"], text(&params["kind"]));
    let fields: Vec<String> = params["fields"].as_array().into_iter().flatten().map(text).collect();
    let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
    let scope = if params["scope"] == "out" { ", no longer in the filter" } else { "" };
    let actor = params["actor"].as_str().unwrap_or("the command line");
    let (username, rev) = (text(&user["username"]), &user["rev"]);
    output::say(format_args!("{at}  {username} rev {rev}  {kind}{fields} by {actor}{scope}"))
}
