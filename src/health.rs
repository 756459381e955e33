//! Asking a running gateway whether it is ready: what a container's health check runs.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most that is read of the answer.
const ANSWER_MAX_BYTES: u64 = 4096;

/// Asks `url` (plain `http`, host and port in it) and succeeds on a 200.
///
/// Errors: one line that says what came instead.
pub async fn ask(url: &str) -> Result<(), String> {
    let uri: hyper::Uri = url.parse().map_err(|_| "the URL cannot be read".to_owned())?;
    let (Some("http"), Some(host), Some(port)) = (uri.scheme_str(), uri.host(), uri.port_u16()) else {
        return Err("the URL must be http://HOST:PORT/PATH".to_owned());
    };
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let path = if uri.path() == "/" { "/readyz" } else { uri.path() };
    let exchange = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => String::from_utf8_lossy(&answer).into_owned(),
        Ok(Err(error)) => return Err(format!("no answer from {host}:{port}: {error}")),
        Err(_) => return Err(format!("no answer from {host}:{port} within {} s", PATIENCE.as_secs())),
    };
    match answer.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        _ => Err(answer.lines().last().unwrap_or("an empty answer").to_owned()),
    }
}
