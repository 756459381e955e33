//! How a socket ends, and what is sent then.

use std::time::Duration;

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError};

use super::wire::Wire;
use crate::sessions::STALLED;

/// How long the client may take to read the close frame.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one who has accepted nothing for the whole of the write deadline.
const STALLED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long input is discarded after the close, so that it does not turn into a reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// How a socket ends.
pub(super) enum End {
    /// We close it with a code.
    Close(u16, &'static str),
    /// The client closed it; its close frame, if there is one, has been answered.
    ByPeer,
    /// There is nobody to tell.
    Gone,
}

/// The close code for what the client did wrong; `None` when there is nobody to tell.
pub(super) fn fault_of(error: &Error) -> Option<(u16, &'static str)> {
    match error {
        Error::Capacity(_) => Some((1009, "message too big")),
        Error::Utf8(_) => Some((1007, "not UTF-8")),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some((1002, "protocol error")),
        _ => None,
    }
}

/// Ends the socket: the close frame, then the end of writing, then input discarded for a moment, since
/// unread input would turn the close into a reset that destroys what the client has not read yet.
pub(super) async fn finish(mut ws: WebSocketStream<Wire>, end: End) {
    let told = match end {
        End::Gone => return,
        End::ByPeer => tokio::time::timeout(CLOSE_TIMEOUT, ws.flush()).await,
        End::Close(code, reason) => {
            let patience = if code == STALLED { STALLED_CLOSE_TIMEOUT } else { CLOSE_TIMEOUT };
            let frame = CloseFrame { code: code.into(), reason: reason.into() };
            tokio::time::timeout(patience, ws.send(Message::Close(Some(frame)))).await
        }
    };
    if !matches!(told, Ok(Ok(()) | Err(Error::ConnectionClosed))) {
        return;
    }
    let mut io = ws.into_inner().into_inner();
    if io.shutdown().await.is_err() {
        return;
    }
    let mut discarded = vec![0; 4096];
    let drained = async { while matches!(io.read(&mut discarded).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, drained).await;
}
